"""Runs of several variants and seeds, compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxdl.report.notes import notes_on
from jaxdl.report.runs import Cell, Run, load_runs
from jaxdl.report.stats import Difference, Mean, compare, holm, mean_of, resolution
from jaxdl.report.words import Scale, losing, nothing, scale_of, verdict


@dataclass(frozen=True)
class Row:
    """One variant in one metric."""

    variant: str
    values: Mapping[int, float]
    """Finite results by seed."""
    lost: Mapping[int, str]
    """Seeds that have no finite value, failed ones included, and why in a word or two."""
    mean: Mean
    found: Difference | None
    """Against the base; None of the base itself, and where there is nothing to compare."""
    corrected: float
    """Holm's p among the variants; NaN where nothing was tested."""
    verdict: str
    """Empty for the base."""


@dataclass(frozen=True)
class Metric:
    """One metric of all variants, the base first."""

    name: str
    scale: Scale
    rows: tuple[Row, ...]

    def row(self, variant: str) -> Row:
        """The row of `variant`."""
        return next(row for row in self.rows if row.variant == variant)


@dataclass(frozen=True)
class Study:
    """Everything a report tells, read from the run directories."""

    title: str
    base: str
    runs: tuple[Run, ...]
    metrics: tuple[Metric, ...]
    """The headline first."""
    edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader must know before believing the numbers."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The base first, the others as they came."""
        return _variants(self.runs, self.base)

    @property
    def headline(self) -> Metric | None:
        """The metric that the verdicts speak of; None where no run counts."""
        return self.metrics[0] if self.metrics else None

    @property
    def verdicts(self) -> dict[str, str]:
        """A line for each variant but the base, in the headline metric."""
        if self.headline is None:
            return {v: "no run counts" for v in self.variants if v != self.base}
        return {row.variant: row.verdict for row in self.headline.rows if row.variant != self.base}

    @property
    def failed(self) -> tuple[Run, ...]:
        """Runs that do not count, with the reason in `missing`."""
        return tuple(run for run in self.runs if run.missing)

    def of(self, variant: str) -> tuple[Run, ...]:
        """The runs of `variant` that count."""
        return tuple(r for r in self.runs if r.cell.variant == variant and not r.missing)

    def lines(self) -> Iterator[dict[str, Any]]:
        """A flat object for each metric and variant, for `--json`."""
        for metric in self.metrics:
            for row in metric.rows:
                yield _line(self, metric, row)


def study(
    cells: Sequence[Cell],
    *,
    title: str,
    base: str = "base",
    edits: Mapping[str, Mapping[str, Any]] = {},
) -> Study:
    """The comparison of `cells`; every one of them is counted or said to be missing."""
    runs = load_runs(cells)
    variants = _variants(runs, base)
    counted = [run for run in runs if not run.missing]
    metrics = tuple(_metric(name, runs, variants, base) for name in _names(counted))
    return Study(title, base, runs, metrics, dict(edits), notes_on(runs, variants, base))


def _variants(runs: Iterable[Run], base: str) -> tuple[str, ...]:
    names = dict.fromkeys(run.cell.variant for run in runs)
    return tuple(sorted(names, key=lambda name: name != base))


def _names(runs: Sequence[Run]) -> list[str]:
    """All metrics; first the primary one, of the test split where every run has measured that."""
    known = dict.fromkeys(name for run in runs for name in run.values)
    primaries = Counter(run.result.primary for run in runs if run.result)
    first = primaries.most_common(1)[0][0] if primaries else ""
    tested = f"test/{first.rpartition('/')[2]}"
    headline = tested if all(tested in run.values for run in runs) else first
    splits = {"test": 0, "valid": 1}
    order = sorted(known, key=lambda name: splits.get(name.partition("/")[0], 2))
    return sorted(order, key=lambda name: (name != headline, name != first))


def _metric(name: str, runs: Sequence[Run], variants: Sequence[str], base: str) -> Metric:
    counted = [run for run in runs if not run.missing]
    everything = [run.values[name] for run in counted if name in run.values]
    step, scale = resolution(everything), scale_of(name, everything, _mode(name, counted))
    values, lost = _by_seed(name, runs, variants)
    found = {v: compare(values.get(base, {}), values[v], step) for v in variants if v != base}
    corrected = holm({v: f.p if f else math.nan for v, f in found.items()})
    tests = sum(not math.isnan(p) for p in corrected.values())

    def told(variant: str) -> str:
        sides = (variant, ""), (base, f" of {base}")
        if (gap := found[variant]) is not None:
            first = verdict(gap, corrected[variant], scale, base, tests)
        else:
            bare = next((v, of) for v, of in sides if not values.get(v))
            first = nothing(name, lost.get(bare[0], {}), bare[1])
        losses = (losing(lost.get(v, {}), len(values.get(v, {})), of) for v, of in sides)
        return "; ".join(filter(None, (first, *losses)))

    rows = (
        Row(
            v,
            values[v],
            lost[v],
            mean_of(values[v].values(), step),
            found.get(v),
            corrected.get(v, math.nan),
            "" if v == base else told(v),
        )
        for v in variants
    )
    return Metric(name, scale, tuple(rows))


def _by_seed(name: str, runs: Iterable[Run], variants: Sequence[str]) -> tuple[dict, dict]:
    """The finite values of each variant by seed, and what the other seeds lack."""
    values: dict[str, dict[int, float]] = {variant: {} for variant in variants}
    lost: dict[str, dict[int, str]] = {variant: {} for variant in variants}
    for run in runs:
        value = math.nan if run.missing else run.values.get(name, math.nan)
        if math.isfinite(value):
            values[run.cell.variant][run.cell.seed] = value
        else:
            lost[run.cell.variant][run.cell.seed] = run.lack
    for variant, found in values.items():
        lost[variant] = {s: why for s, why in lost[variant].items() if s not in found}
    return values, lost


def _mode(name: str, runs: Iterable[Run]) -> str:
    """What the task says of its primary metric, on whatever split."""
    for run in runs:
        task = run.config.get("task") if run.config else None
        if run.result and run.result.primary.rpartition("/")[2] == name.rpartition("/")[2]:
            return str(task.get("mode", "")) if isinstance(task, Mapping) else ""
    return ""


def _line(study: Study, metric: Metric, row: Row) -> dict[str, Any]:
    found = row.found
    return {
        "variant": row.variant,
        "metric": metric.name,
        "headline": metric is study.headline,
        "seeds": row.mean.n,
        "failed": len(row.lost),
        "pairs": found.n if found and found.paired else None,
        "mean": row.mean.mean,
        "half": row.mean.half,
        "difference": found.difference if found else None,
        "difference_half": found.half if found else None,
        "paired": found.paired if found else None,
        "effect": found.effect if found else None,
        "p": found.p if found else None,
        "p_holm": row.corrected,
        "detectable": found.visible if found else None,
        "verdict": row.verdict,
    }
