"""What a run directory holds (schema 1): one description for its writers and its readers.

passport.json    what was run: the resolved experiment, code, versions, data, devices
code.json        digests of the files of code that ran
code.patch       what of that code was not committed (jaxdl.patch: in jaxdl's own repository)
metrics.jsonl    one Record per line
result.json      how it ended
tensorboard/     the same scalars as events
checkpoints/     one folder per saved step
tracking.json    where a tracker mirrors the run, and up to which steps
*.png            curves and sample predictions
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.core.errors import InputError
from jaxdl.core.files import write_whole

SCHEMA = 1
OUTSIDE = ("cli", "report", "bench", "plan", "search", "serve", "export", "interpret")
"""Packages of jaxdl that no training needs."""
STAMPED = ("command", "code", "versions", "devices", "flags", "kernels")
PASSPORT, METRICS, RESULT = "passport.json", "metrics.jsonl", "result.json"
CODE, PATCH, OWN_PATCH = "code.json", "code.patch", "jaxdl.patch"
CHECKPOINTS, TENSORBOARD, TRACKING = "checkpoints", "tensorboard", "tracking.json"


@dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl."""

    step: int
    split: str
    """`train`, `valid`, `test`, or `perf` for rates, which differ from run to run."""
    time: float
    """Seconds since the start of training, earlier sittings included."""
    values: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """result.json."""

    status: str
    """`done`, `stopped` (early, by a hook), `preempted` (the same command resumes) or `failed`."""
    steps: int
    seconds: float
    primary: str
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By split, of the best checkpoint."""
    best: Mapping[str, float] | None = None
    """`step` and `value` of the primary metric."""
    memory_mb: float | None = None
    """Peak in 10^6 bytes: of the fullest device where it tells, of the first process otherwise."""
    schema: int = SCHEMA

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to resume."""
        return self.status in ("done", "stopped")


@dataclass(frozen=True)
class Code:
    """code.json: the files of code that ran, so that two runs can be compared file by file."""

    files: Mapping[str, Mapping[str, str]]
    """By place (`jaxdl`, `here`): path below the place's root -> digest."""
    roots: Mapping[str, str]
    """Where each place was: a repository, or else the folder."""
    packages: Mapping[str, str]
    """One digest for the Python files of each package that makes numbers."""
    ran: tuple[str, ...] | None = None
    """Files of jaxdl that the run imports; None where that was not taken down yet."""
    left_out: tuple[str, ...] = ()
    """Files that the patches lack: too large, or secret by their names."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Passport:
    """passport.json: where a run's numbers come from."""

    experiment: Any
    """The resolved experiment in its JSON form."""
    digest: str
    """8 hex digits of it, without `steps` and `hooks`."""
    source: str
    """File, variant and edits it was loaded from."""
    command: str
    code: Mapping[str, Any]
    """Revision and digest of what is not committed, for the repositories of jaxdl and of the
    experiment; digests of the experiment's file and of all `files`."""
    versions: Mapping[str, str]
    """Of every installed package, and of Python."""
    data: Mapping[str, str]
    """Fingerprints by split."""
    devices: Mapping[str, Any]
    flags: Mapping[str, str]
    """The part of the environment that may matter, and settings of jax (`jax_enable_x64` ...)."""
    seed: int
    parameters: int = 0
    flops: int = 0
    """Of matrix products and convolutions in one update."""
    kernels: tuple[Mapping[str, Any], ...] = ()
    """Which implementation runs each kernel, and why not the platform's own."""
    folder: str = ""
    """Working directory of the command."""
    sittings: tuple[Mapping[str, Any], ...] = ()
    """One entry per resumption: its `step`, and those of the `STAMPED` fields that had changed."""
    schema: int = SCHEMA


def same_code(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two passports' `code` are of one program: by the files that ran, where both tell."""
    files = a.get("files"), b.get("files")
    return files[0] == files[1] if all(files) else a == b


def write_json(path: Path, value: Any) -> None:
    """Writes a dataclass or plain value at once: a reader sees the old file or the new one.

    A dataclass is for other programs too: its NaN and infinities, which JSON does not know, become
    null.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = finite(asdict(value))
    write_whole(path, json.dumps(value, indent=1) + "\n")


def line_of(record: Record) -> str:
    """A record as its line; JSON knows no NaN or infinity, so they become null."""
    try:
        return json.dumps(vars(record), allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(finite(vars(record)), allow_nan=False) + "\n"


def read_result(directory: Path) -> Result | None:
    """result.json of a run, or None before its first end; null becomes NaN again."""
    found = _read(directory / RESULT, Result)
    if found is None:
        return None
    metrics = {split: _numbers(values) for split, values in found.metrics.items()}
    return replace(found, metrics=metrics, best=found.best and _numbers(found.best))


def read_passport(directory: Path) -> Passport:
    """passport.json of a run.

    Raises:
        InputError: the directory is not a run's.
    """
    found = _read(directory / PASSPORT, Passport)
    if found is None:
        raise InputError(f"{directory} is not a run directory: it has no {PASSPORT}.")
    return found


def read_code(directory: Path) -> Code | None:
    """code.json of a run; None where it was made before there was one."""
    return _read(directory / CODE, Code)


def read_records(directory: Path) -> Iterator[Record]:
    """The records of metrics.jsonl, null as NaN; a line cut short by a crash ends them.

    Raises:
        InputError: it is damaged.
    """
    path = directory / METRICS
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            yield _record_of(line, path)


def _record_of(line: bytes, path: Path) -> Record:
    try:
        record = json.loads(line)
        return Record(**record | {"values": _numbers(record["values"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); restore it, or take another run directory."
        ) from error


def as_text(array: np.ndarray) -> dict[str, Any]:
    """An array for JSON, bit for bit and much quicker than its numbers one by one."""
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def from_text(text: Mapping[str, Any]) -> np.ndarray:
    """The array of `as_text`."""
    data = base64.b64decode(text["data"])
    return np.frombuffer(data, text["dtype"]).reshape(text["shape"])


def finite(value: Any) -> Any:
    """`value` with None for every float that is not finite."""
    if isinstance(value, Mapping):
        return {name: finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if v is None else v for name, v in values.items()}


def _read(path: Path, kind: type) -> Any:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
        schema = value.get("schema")
        if schema != SCHEMA:
            raise InputError(
                f"{path} has schema {schema}, this version reads {SCHEMA}; "
                "install the version of jaxdl that wrote it, or leave that run out."
            )
        found = {f.name: value[f.name] for f in fields(kind) if f.name in value}
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); restore it or use another --run-dir."
        ) from None
