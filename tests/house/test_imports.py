"""Who may import whom, checked over the syntax tree of every file of ours."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY = {
    "core": set(),
    "kernels": {"core"},
    "parallel": {"core", "kernels"},
    "nn": {"core", "kernels", "parallel"},
    "models": {"nn", "core"},
    "losses": {"core"},
    "optim": {"core"},
    "metrics": {"core"},
    "data": {"core", "parallel"},
    "tasks": {"core", "metrics", "losses", "data"},
    "train": {"core", "parallel", "optim", "metrics", "data"},
    "transform": {"core", "nn"},
    "interpret": {"core", "nn"},
    "plan": {"core", "train", "parallel", "kernels"},
    # Its workloads are experiments.
    "bench": {
        *("core", "train", "parallel", "kernels", "models", "tasks", "data", "optim", "metrics"),
    },
    "report": {"core"},
    "search": {"core"},
    "export": {"core", "data", "tasks", "train", "models"},
    "serve": {"core", "data", "tasks", "train", "models"},
}
MAY["cli"] = MAY["experiments"] = set(MAY)  # cli is in neither: nobody may import it
MAY["__init__"] = set()  # `import jaxdl` stays light
MAY["__main__"] = {"cli"}

ONLY_IN = {
    "flax.linen": (
        *("nn", "models", "transform", "interpret", "parallel/rules.py", "experiments"),
        "bench/peers/linen.py",
    ),
    "orbax": ("train/checkpoint.py",),
}
NEVER = ("kernels", "experiments", "tests", "tpu", "pickle", "cloudpickle", "dill")


def module_of(path: str) -> tuple[str, str]:
    """The dotted package of the file `path` (from the root), and its line in the table.

    A package that is still one file, jaxdl/plan.py, has the line of the folder it will become.
    """
    folder = "jaxdl/" + path if path.startswith("kernels/") else path
    parts = folder.removesuffix(".py").split("/")
    unit = parts[0] if parts[0] == "experiments" else parts[1]
    return ".".join(parts[:-1]), unit


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join((*(parents if node.level else ()), *filter(None, [node.module])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def within(name: str, *prefixes: str, sep: str = ".") -> bool:
    return any(name == prefix or name.startswith(prefix + sep) for prefix in prefixes)


def violations(path: str, source: str) -> list[str]:
    """What the file `path` (from the root) does against the table, one sentence each."""
    package, unit = module_of(path)
    if unit not in MAY:
        return [f"{path}: {unit!r} has no line in the table of tests/house/test_imports.py"]
    tree, found = ast.parse(source), []
    for line, name in imported(tree, package):
        target = name.split(".")[1] if within(name, "jaxdl") and "." in name else unit
        if target not in {unit, *MAY[unit]} and target in MAY:
            found.append(f"{path}:{line}: {unit} may not import {target}")
        if within(name, *NEVER):
            found.append(f"{path}:{line}: nobody imports {name}")
        for banned, places in ONLY_IN.items():
            inside = within(path.removeprefix("jaxdl/"), *places, sep="/")
            if within(name, banned) and not inside:
                found.append(f"{path}:{line}: {banned} is imported only in {', '.join(places)}")
    if unit == "kernels":
        found += [
            f"{path}:{node.lineno}: pick with jax.lax.platform_dependent, not by default_backend"
            for node in ast.walk(tree)
            if "default_backend" in (getattr(node, "attr", ""), getattr(node, "name", ""))
        ]
    return found


def files() -> list[Path]:
    return [p for top in ("jaxdl", "kernels", "experiments") for p in (ROOT / top).rglob("*.py")]


def test_every_file_keeps_to_the_table():
    assert len(files()) > 20
    found = [
        line
        for path in files()
        for line in violations(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not found, "\n".join(found)


PLANTED = [
    ("jaxdl/core/a.py", "from jaxdl.train import loop"),
    ("jaxdl/core/a.py", "from jaxdl import train"),
    ("jaxdl/core/a.py", "import jaxdl.train.loop as loop"),
    ("jaxdl/core/a.py", "from ..train import loop"),
    ("jaxdl/core/a.py", "from .. import train"),
    ("jaxdl/core/__init__.py", "from ..train import loop"),
    ("jaxdl/core/a.py", "def f():\n    from jaxdl.train import loop"),
    ("jaxdl/losses.py", "from jaxdl.models import gpt"),
    ("jaxdl/models/a.py", "import jaxdl.kernels.attention"),
    ("jaxdl/train/a.py", "from jaxdl.cli import main"),
    ("jaxdl/__init__.py", "from jaxdl.core import load"),
    ("jaxdl/utils.py", ""),
    ("kernels/a/api.py", "from jaxdl.parallel import mesh"),
    ("kernels/a/api.py", "from ...nn import attention"),
    ("kernels/a/api.py", "import jax\nif jax.default_backend() == 'tpu': pass"),
    ("kernels/a/api.py", "from jax import default_backend"),
    ("experiments/a.py", "from jaxdl import cli"),
    ("jaxdl/nn/a.py", "import kernels"),
    ("jaxdl/nn/a.py", "from kernels.attention import api"),
    ("jaxdl/nn/a.py", "import experiments.quickstart"),
    ("jaxdl/train/a.py", "from flax import linen as nn"),
    ("jaxdl/parallel/mesh.py", "import flax.linen as nn"),
    ("jaxdl/train/a.py", "from flax.linen import Dense"),
    ("jaxdl/train/loop.py", "import orbax.checkpoint as ocp"),
    ("jaxdl/train/loop.py", "from orbax.checkpoint import v1"),
    ("jaxdl/data/a.py", "import pickle"),
]
ALLOWED = [
    ("jaxdl/core/a.py", "from jaxdl import __version__\nfrom . import errors\nimport jax"),
    ("jaxdl/train/hooks/a.py", "from ..state import State\nfrom ...core import rng"),
    ("jaxdl/parallel/rules.py", "import flax.linen as nn"),
    ("jaxdl/models/a.py", "from flax import linen as nn\nfrom jaxdl.nn import norm"),
    ("jaxdl/train/checkpoint.py", "from orbax.checkpoint import v1 as ocp"),
    ("jaxdl/cli/a.py", "from jaxdl import plan, train\nfrom .text import table"),
    ("jaxdl/plan.py", "from jaxdl.train import build"),
    ("jaxdl/__main__.py", "from jaxdl.cli import main"),
    ("kernels/a/api.py", "from . import reference\nfrom jaxdl.core import checks"),
    ("experiments/a.py", "from flax import linen\nfrom jaxdl.models import gpt"),
]


@pytest.mark.parametrize(("path", "source"), PLANTED)
def test_a_planted_violation_is_found(path, source):
    assert violations(path, source)


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_what_the_table_allows_passes(path, source):
    assert violations(path, source) == []
