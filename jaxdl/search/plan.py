"""Which runs a study consists of, which of them exist, and what the others may take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdl.core.change import change
from jaxdl.core.codec import digest
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.experiment import Experiment
from jaxdl.core.loading import ablations, default_directory, load_experiment
from jaxdl.search.cells import Cell

OVERHEAD = 6.0
"""Seconds that a run takes before and after its training, until one was watched."""


@dataclass(frozen=True)
class Plan:
    """Every variant with every seed."""

    file: str
    sets: tuple[str, ...]
    variants: Mapping[str, Mapping[str, Any]]
    """Name -> edits, `base` first."""
    seeds: range
    primary: str
    folder: Path
    """Where report and logs are kept."""
    cells: tuple[Cell, ...]
    """Whole seeds first, so that whatever has been run compares all variants alike."""

    def arguments(self, cell: Cell) -> list[str]:
        """The command that trains `cell`, or resumes it."""
        sets = [part for text in (*self.sets, f"seed={cell.seed}") for part in ("--set", text)]
        return ["train", f"{self.file}:{cell.variant}", *sets, "--run-dir", str(cell.run)]

    def log(self, cell: Cell) -> Path:
        """Where that command writes."""
        return self.folder / "logs" / f"{cell.run.name}.log"

    def of(self, *states: str) -> list[Cell]:
        """The cells in these states."""
        return [cell for cell in self.cells if cell.state in states]

    def estimate(self, cell: Cell, overhead: float = OVERHEAD) -> float | None:
        """Seconds that `cell` may take: like its variant's finished runs, else like all of them;
        None while there is none."""
        done = self.of("done")
        alike = [other.seconds for other in done if other.variant == cell.variant]
        known = alike or [other.seconds / other.steps * cell.steps for other in done]
        return statistics.mean(known) + overhead if known else None

    def left(self, jobs: int = 1, overhead: float = OVERHEAD) -> float | None:
        """Seconds that all waiting cells may take; None while nothing has been measured."""
        each = [self.estimate(cell, overhead) for cell in self.of("waiting")]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) / jobs if len(known) == len(each) else None


def make_plan(
    file: str,
    *,
    seeds: int,
    only: Sequence[str] = (),
    sets: Sequence[str] = (),
    directory: Path | None = None,
) -> Plan:
    """The study of `file`'s variants (`only` some, and `base`) with `seeds` seeds from its own on.

    Every run is in the directory in which `jaxdl train` would put it, or in `directory`; what is
    finished there counts.

    Raises: InputError where a variant, an edit or a seed is wrong, an edit of `sets` would undo a
    variant's own, or a directory holds a run that cannot be compared.
    """
    if seeds < 1:
        raise InputError(f"seeds={seeds} must be at least 1.")
    variants = _chosen(file, only)
    exps = {name: load_experiment(f"{file}:{name}", sets)[0] for name in variants}
    _check_sets(sets, variants)
    base, first = exps["base"], exps["base"].seed
    kept = tuple(text for text in sets if text.partition("=")[0].strip() != "seed")
    cells = [
        _cell(file, name, change(exp, {"seed": seed}), directory)
        for seed in range(first, first + seeds)
        for name, exp in exps.items()
    ]
    folder = directory or default_directory(file, "", base).parent / "ablation" / digest(base)
    numbers = range(first, first + seeds)
    return Plan(file, kept, variants, numbers, base.task.primary, folder, tuple(cells))


def _chosen(file: str, only: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    if ".py:" in file:
        path, _, name = file.rpartition(":")
        raise InputError(f"{file} names one variant; write {path} --only {name}.")
    known = ablations(file)
    for name in only:
        if name not in known:
            raise InputError(f"{file} has no variant {name!r}; {suggest(name, known)}")
    chosen = {name: edits for name, edits in known.items() if not only or name in only}
    variants = {"base": known["base"], **chosen}
    if seeded := [name for name, edits in variants.items() if "seed" in edits]:
        raise InputError(
            f"{file}: variant {seeded[0]!r} edits seed, which every variant gets here; name the "
            "others with --only."
        )
    if len(variants) < 2:
        raise InputError(
            f"{file} has nothing to compare with base; give it ABLATIONS, such as "
            "{'deep': {'model.depth': 24}}, or try `jaxdl train`."
        )
    return variants


def _check_sets(sets: Iterable[str], variants: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses an edit of all variants that lands on what one of them is about."""
    for path in (text.partition("=")[0].strip() for text in sets):
        for name, edits in variants.items():
            for own in edits:
                if f"{own}.".startswith(f"{path}.") and path != "seed":
                    raise InputError(
                        f"--set {path} would undo the {own} of variant {name!r}; leave it out, or "
                        "choose other variants with --only."
                    )


def _cell(file: str, variant: str, exp: Experiment, directory: Path | None) -> Cell:
    name = f"{variant}-{digest(exp)}"
    run = directory / name if directory else default_directory(file, variant, exp)
    cell = Cell(variant, exp.seed, run, exp.steps, exp.task.primary)
    cell.look(exp)
    return cell
