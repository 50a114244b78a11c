"""What differs between the passports of two runs, and how likely it is to move the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxdl.core.flags import PREFIXES
from jaxdl.core.nodes import ABSENT
from jaxdl.core.records import STAMPED, Code, Passport

Stage = Literal["start", "update", "evaluation", "any", "unused", "nothing"]
"""Where a difference shows first: in the first update's loss, after an update, in evaluation only,
anywhere, nowhere as far as one can tell, or not in the numbers at all."""
PART = "jaxdl.core.part:Part"

STAGES: Mapping[str, Stage] = {
    "seed": "start",
    "precision": "start",
    "model": "start",
    "task": "start",
    "data": "start",
    "data.eval_batch": "evaluation",
    "data.eval_transform": "evaluation",
    "optim": "update",
    "steps": "update",
    "ema": "evaluation",
}
HOOKS: Mapping[str, Stage] = {
    "jaxdl.train.hooks.log:Log": "nothing",
    "jaxdl.train.hooks.histograms:Histograms": "nothing",
    "jaxdl.train.hooks.track_mlflow:MLflow": "nothing",
    "jaxdl.train.hooks.track_wandb:WandB": "nothing",
    "jaxdl.train.hooks.evaluate:Evaluate": "evaluation",
    "jaxdl.train.hooks.save:Save": "evaluation",
}
IDLE = (
    *("PYTHONPATH", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_LOG", "JAX_TRACEBACK"),
    *("JAXDL_START_SECONDS", "JAXDL_TRACEBACK", "JAXDL_DATA", "TFDS_DATA_DIR"),
    *("TF_CPP_", "JAX_ENABLE_COMPILATION_CACHE", "MALLOC_", "NCCL_DEBUG"),
    # Which devices of a kind; the kind and their number are told apart.
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
)
"""How names of the environment begin that move no number by themselves."""
THREADS = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_")
"""How names begin that tell the host's libraries how many threads to take, which seldom matters."""
MAKES_DATA = ("numpy", "pillow", "scikit-learn", "scipy", "pandas", "grain", "array-record")
MAKES_DATA += ("tensorflow-datasets", "tokenizers", "datasets", "opencv-python", "scikit-image")
MAKES_NUMBERS = ("jax", "jaxlib", "flax", "optax", "chex", "clu", "ml-dtypes", "orbax-checkpoint")
MAKES_NUMBERS += ("libtpu", "python", "jaxdl", "qwix", "tokamax", "distrax")
ORDER = {
    "config": 0,
    "seed": 0,
    "sitting": 1,
    "code of data": 2,
    "environment of data": 2,
    "versions of data": 3,
    "data": 4,
    "code": 5,
    "environment": 6,
    "versions": 7,
    "devices": 8,
    "kernels": 9,
    "threads": 10,
    "other versions": 11,
    "run": 12,
}
"""What may have changed another is named before it: a seed, code or a decoder changes data."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in two runs."""

    kind: str
    """config, seed, code, environment, versions, data, devices, kernels, sitting or run."""
    name: str
    """Dotted path, file and line, variable, package, split ..."""
    a: str
    b: str
    stage: Stage = "any"
    rank: int = 0
    """Smaller is likelier, as far as the kind of thing tells."""
    path: tuple[str, ...] = ()
    """Where it is in the experiment's JSON, or place and name of a file."""
    value: Any = ABSENT
    """What b has there, for a re-run."""


def of_config(a: Any, b: Any) -> list[Difference]:
    """Fields of two experiments in their JSON form."""
    found = []
    for path, left, right in _walk(a, b, ()):
        name = _dotted(path)
        kind = "seed" if name == "seed" else "config"
        stage = _stage(path, a, b)
        shown = (_shown(left), _shown(right))
        found.append(Difference(kind, name, *shown, stage, ORDER[kind], path, right))
    return found


def of_mapping(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Entries of two plain mappings of a passport."""
    return [
        Difference(kind, name, _shown(a.get(name, ABSENT)), _shown(b.get(name, ABSENT)))
        for name in sorted(a.keys() | b.keys())
        if a.get(name, ABSENT) != b.get(name, ABSENT)
    ]


def of_environment(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Difference]:
    """Variables and settings; a setting that follows its variable is told once."""
    found = of_mapping("environment", a, b)
    variables = {d.name for d in found if d.name.isupper()}
    for d in found:
        if d.name.islower() and d.name.upper() in variables:
            continue
        known = d.name.startswith((*PREFIXES, "jax_"))
        kind = "environment" if known else "environment of data"
        order = ORDER["threads" if d.name.startswith(THREADS) else kind]
        stage: Stage = "nothing" if d.name.startswith(IDLE) else "any"
        yield Difference(d.kind, d.name, d.a, d.b, stage, order, value=b.get(d.name, ABSENT))


def of_versions(
    a: tuple[Passport, Code | None], b: tuple[Passport, Code | None]
) -> Iterator[Difference]:
    """Packages of another version, and of the same version but other files."""
    (one, code_a), (two, code_b) = a, b
    told = set()
    # Older passports told of fewer packages.
    names = one.versions.keys() & two.versions.keys()
    few = min(len(one.versions), len(two.versions)) < 20
    names = names if few else one.versions.keys() | two.versions.keys()
    for name in sorted(names):
        left, right = (side.versions.get(name, repr(ABSENT)) for side in (one, two))
        if left != right:
            told.add(name)
            kind = "versions of data" if name in MAKES_DATA else "versions"
            kind = kind if name in (*MAKES_DATA, *MAKES_NUMBERS) else "other versions"
            yield Difference("versions", name, left, right, "any", ORDER[kind])
    if code_a and code_b:
        for d in of_mapping("versions", code_a.packages, code_b.packages):
            if d.name not in told and repr(ABSENT) not in (d.a, d.b):
                version = one.versions.get(d.name, "")
                words = (f"{version} (files {d.a})", f"{version} (files {d.b})")
                yield Difference("versions", d.name, *words, "any", ORDER["versions"])


def of_data(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Difference]:
    """Splits with other content."""
    for d in of_mapping("data", a, b):
        stage: Stage = "any" if d.name == "train" else "evaluation"
        yield Difference("data", d.name, d.a[:12], d.b[:12], stage, ORDER["data"])


def of_devices(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Devices and processor, as far as both passports tell."""
    shared = a.keys() & b.keys()
    pairs = ({k: v for k, v in side.items() if k in shared} for side in (a, b))
    return [
        Difference(d.kind, d.name, d.a, d.b, "any", ORDER["devices"])
        for d in of_mapping("devices", *pairs)
    ]


def of_kernels(a: Sequence[Mapping], b: Sequence[Mapping]) -> Iterator[Difference]:
    """Kernels for which another implementation was taken."""
    taken = [{f"{k['kernel']} {k.get('shape', '')}": str(k["took"]) for k in s} for s in (a, b)]
    for d in of_mapping("kernels", *taken):
        yield Difference(d.kind, d.name, d.a, d.b, "any", ORDER["kernels"])


def of_sittings(a: Passport, b: Passport) -> Iterator[Difference]:
    """Resumptions under other code, versions, devices or flags than the run began with."""
    for side, passport in enumerate((a, b)):
        for sitting in passport.sittings:
            changed = [name for name in STAMPED if name in sitting and name != "command"]
            changed = [name for name in changed if sitting[name] != getattr(passport, name)]
            if changed:
                words = ["as it began", f"went on with other {', '.join(changed)}"]
                shown = words if side else words[::-1]
                name = f"from step {sitting['step']}"
                yield Difference("sitting", name, *shown, "update", ORDER["sitting"])


def of_run(a: Passport, b: Passport) -> Iterator[Difference]:
    """How and where the runs were started, which moves no number."""
    for name in ("command", "folder"):
        left, right = getattr(a, name), getattr(b, name)
        if left != right:
            yield Difference("run", name, left, right, "nothing", ORDER["run"])


def _walk(a: Any, b: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(a, list) and isinstance(b, list):
        a, b = ({str(i): x for i, x in enumerate(side)} for side in (a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping) and _kind(a) == _kind(b):
        for name in a | b:
            yield from _walk(a.get(name, ABSENT), b.get(name, ABSENT), (*path, name))
    elif a != b:
        yield path, a, b


def _kind(value: Mapping) -> Any:
    marks = {key: value[key] for key in ("$", "$ref", "$float") if key in value}
    return marks | ({"target": value.get("target")} if marks.get("$") == PART else {})


def _dotted(path: tuple[str, ...]) -> str:
    # A Part keeps its fields one level down.
    return ".".join(name for name in path if name != "kw")


def _stage(path: tuple[str, ...], a: Any, b: Any) -> Stage:
    if path[0] == "hooks":
        sides = [side.get("hooks", []) for side in (a, b)]
        whole = len(path) == 1
        touched = [h for hooks in sides for i, h in enumerate(hooks) if whole or path[1] == str(i)]
        stages = {HOOKS.get(hook.get("$", ""), "any") for hook in touched}
        return next((s for s in ("any", "evaluation") if s in stages), "nothing")
    for end in range(len(path), 0, -1):
        if (name := ".".join(path[:end])) in STAGES:
            return STAGES[name]
    return "any"


def _shown(value: Any) -> str:
    if not isinstance(value, Mapping):
        return value if isinstance(value, str) else repr(value)
    for key in ("$ref", "$float"):
        if key in value:
            return str(value[key])
    kind = str(value.get("$", "")).rpartition(":")[2]
    inner = ", ".join(f"{k}={_shown(v)}" for k, v in value.items() if k != "$")
    return f"{kind}({inner})" if kind else f"{{{inner}}}"
