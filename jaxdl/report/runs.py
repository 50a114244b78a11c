"""The runs of a study as their directories tell them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.core.nodes import diff
from jaxdl.core.records import PASSPORT, Passport, Result, read_passport, read_result

COSTS = {
    "seconds": "training time, s",
    "parameters": "parameters",
    "flops": "training FLOPs",
    "memory": "peak memory, MB",
}
"""What a run may have cost, and how it is headed."""


SWEEP = "sweep-"
"""How the names of a sweep's folders begin."""


@dataclass(frozen=True)
class Cell:
    """One variant with one seed, and where it ran."""

    variant: str
    seed: int
    run: Path
    error: str = ""
    """Why it failed, if it did."""


@dataclass(frozen=True)
class Run:
    """What is known of a cell."""

    cell: Cell
    passport: Passport | None
    result: Result | None
    missing: str
    """Why it does not count; empty where it does."""
    damaged: bool = False
    """Whether its records cannot be read."""

    @property
    def lack(self) -> str:
        """Why it has no value of some metric, after a number of seeds."""
        if not self.missing:
            return "gave no value"
        ended = self.result is not None and (self.result.finished or self.result.status == "failed")
        return "failed" if ended or self.cell.error or self.damaged else "did not finish"

    @cached_property
    def values(self) -> dict[str, float]:
        """Results by `split/name`."""
        splits = self.result.metrics if self.result else {}
        return {
            f"{split}/{k}": float(v) for split, found in splits.items() for k, v in found.items()
        }

    @property
    def costs(self) -> dict[str, float]:
        """What it cost, as far as it was recorded."""
        if self.result is None or self.passport is None:
            return {}
        found = {
            "seconds": self.result.seconds,
            "parameters": self.passport.parameters,
            "flops": self.passport.flops * self.result.steps,
            "memory": self.result.memory_mb,
        }
        return {name: float(value) for name, value in found.items() if value}

    @cached_property
    def config(self) -> Any:
        """The experiment as nested plain values, without its seed; None where there is none."""
        if self.passport is None:
            return None
        found = readable(self.passport.experiment)
        return {k: v for k, v in found.items() if k != "seed"}


def load_runs(cells: Iterable[Cell]) -> tuple[Run, ...]:
    """The runs of `cells`; of several with one variant and seed the first counts."""
    found: list[Run] = []
    counted: dict[tuple[str, int], Path] = {}
    for cell in cells:
        run = _load(cell)
        key = (cell.variant, cell.seed)
        if not run.missing and key in counted:
            first = counted[key].name
            run = replace(run, missing=f"repeats seed {cell.seed}, which {first} counts for")
        elif not run.missing:
            counted[key] = cell.run
        found.append(run)
    return tuple(found)


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The run directories among `places` and anywhere below them, each once.

    A sweep's trials are left out unless the place is the sweep's own folder: they are alternatives
    that were searched, not variants to compare.

    Raises: InputError where a place holds none.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise InputError(
                f"{place} is no folder; give run directories or a folder that has some."
            )
        here = [place] if (place / PASSPORT).exists() else _below(place)
        if not here:
            raise InputError(
                f"{place} holds no run (a folder with {PASSPORT}); `jaxdl train` makes them "
                f"under runs/. The trials of a sweep are taken by its folder, e.g. {SWEEP}default."
            )
        found |= dict.fromkeys(here)
    return list(found)


def readable(value: Any) -> Any:
    """The JSON form of an experiment with tuples for lists and plain names for classes.

    Two of these can be compared by `diff` without importing what they name.
    """
    if isinstance(value, list | tuple):
        return tuple(readable(part) for part in value)
    if not isinstance(value, Mapping):
        return value
    if "$ref" in value:
        return str(value["$ref"])
    if "$float" in value:
        return float(value["$float"])
    if "target" in value and "kw" in value:
        return {"class": readable(value["target"]), **readable(value["kw"])}
    return {"class" if k == "$" else k: readable(part) for k, part in value.items()}


def differences(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Where the configurations of two runs differ, as `(in a, in b)`, seeds aside."""
    return {} if a.config is None or b.config is None else diff(a.config, b.config)


def _below(place: Path) -> list[Path]:
    """Runs under `place`, in order; what lies inside a run is its own affair."""
    found = []
    for child in sorted(p for p in place.iterdir() if p.is_dir() and not p.is_symlink()):
        if child.name.startswith(SWEEP):
            continue
        found += [child] if (child / PASSPORT).exists() else _below(child)
    return found


def _load(cell: Cell) -> Run:
    if not (cell.run / PASSPORT).exists():
        return Run(cell, None, None, cell.error or "it was not started")
    try:
        passport, result = read_passport(cell.run), read_result(cell.run)
        run = Run(cell, passport, result, cell.error or _unfinished(result))
        _ = run.values, run.config
    except InputError as error:
        return Run(cell, None, None, cell.error or str(error), damaged=True)
    except (ValueError, TypeError, AttributeError) as error:
        told = f"its records are damaged ({error}); restore them or leave that run out"
        return Run(cell, None, None, cell.error or told, damaged=True)
    return run


def _unfinished(result: Result | None) -> str:
    if result is None:
        return "it has no result yet"
    if not result.finished:
        return f"it is {result.status} after {result.steps} steps"
    values = [v for found in result.metrics.values() for v in found.values()]
    if not values:
        return "its result holds no metrics"
    if not any(math.isfinite(v) for v in values):
        return "none of its metrics is finite"
    return ""
