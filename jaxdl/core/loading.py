"""Experiment files: `file.py` defines `base()` and, if it likes, its `ABLATIONS`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxdl.core.change import change, parse_edits
from jaxdl.core.codec import digest, dump
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.experiment import Experiment
from jaxdl.core.names import blame, load_file
from jaxdl.core.nodes import at

__all__ = ["ablations", "default_directory", "load_experiment", "load_file", "variants"]

NAME = r"\w[\w.+=-]*"
"""What a variant may be called."""


def load_experiment(spec: str, sets: Iterable[str] = ()) -> tuple[Experiment, str]:
    """The experiment that `file.py` or `file.py:variant` describes, and the variant's name.

    `sets` (`optim.peak_lr=1e-3`) apply after the variant's edits.

    Raises: InputError where the file, the variant, an edit or a value that must serialise is wrong.
    """
    path, _, variant = spec.rpartition(":") if ".py:" in spec else (spec, "", "base")
    module = load_file(path)
    named = _ablations(module, path)
    if variant not in named:
        raise InputError(f"{path} has no variant {variant!r}; {suggest(variant, named)}")
    exp = _base(module, path)
    with at(f"{path}:{variant}"):
        exp = change(exp, named[variant])
    exp = change(exp, parse_edits(sets, exp))
    dump(exp)  # refuses lambdas and the like now, not after hours of training
    return exp, variant


def ablations(path: str | Path) -> dict[str, Mapping[str, Any]]:
    """Edits by the names that may follow `file.py:`, `base` first."""
    return _ablations(load_file(path), path)


def variants(path: str | Path) -> list[str]:
    """The names that may follow `file.py:`, `base` first."""
    return list(ablations(path))


def default_directory(spec: str, variant: str, exp: Experiment) -> Path:
    """Where a run of `spec`'s file is kept unless something else is said."""
    stem = Path(spec.rpartition(".py")[0]).name
    return Path("runs") / stem / f"{variant}-{digest(exp)}"


def _base(module: ModuleType, path: str) -> Experiment:
    if not callable(getattr(module, "base", None)):
        raise InputError(f"{path} defines no base(); write `def base() -> Experiment: ...`.")
    with blame(module.__jaxdl_file__):
        exp = module.base()
    if not isinstance(exp, Experiment):
        raise InputError(f"{path}: base() returned {exp!r}; it must return an Experiment.")
    return exp


def _ablations(module: ModuleType, path: str | Path) -> dict[str, Mapping[str, Any]]:
    named = getattr(module, "ABLATIONS", {})
    if not isinstance(named, Mapping) or not all(isinstance(e, Mapping) for e in named.values()):
        raise InputError(
            f"{path}: ABLATIONS must map names to edits: {{'deep': {{'model.depth': 24}}}}."
        )
    for name in named:
        if not (isinstance(name, str) and re.fullmatch(NAME, name)):
            fit = re.sub(r"[^\w.+=-]+", "_", str(name)).lstrip(".+=-") or "variant"
            raise InputError(
                f"{path}: ABLATIONS has {name!r}, which cannot be part of a command and of a "
                f"folder's name; call it {fit!r}."
            )
    return {"base": {}, **named}
