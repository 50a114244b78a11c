"""Learning curves of several seeds: their mean, and a band from the lowest to the highest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxdl.core.records import read_records
from jaxdl.report.comparison import Study
from jaxdl.report.runs import Run

POINTS = 200
"""Of a drawn curve; more are averaged in as many equal parts of the steps."""
LEFT_OUT = ("perf", "skipped", "lr")
"""Splits and metrics that say nothing about learning."""
Curve = tuple[np.ndarray, np.ndarray]
"""Steps and values."""


@dataclass(frozen=True)
class Band:
    """A variant's curve, over the seeds that reached each step."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bands(study: Study) -> tuple[dict[str, dict[str, Band]], list[tuple[Run, str]]]:
    """Curves by metric and variant; the headline's name first, then losses, held-out splits first.

    Values that are not finite are left out; so are runs whose records are damaged, which come
    second, with the damage.
    """
    read: dict[str, list[dict[str, Curve]]] = {variant: [] for variant in study.variants}
    damaged: list[tuple[Run, str]] = []
    for variant, run in ((v, run) for v in study.variants for run in study.of(v)):
        try:
            read[variant].append(_curves(run))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            damaged.append((run, str(error.__cause__ or error)))
    names = {name for runs in read.values() for curves in runs for name in curves}
    first = study.headline.name.rpartition("/")[2] if study.headline else ""

    def order(name: str) -> tuple:
        split, _, metric = name.partition("/")
        return metric != first, "loss" not in metric, metric, split == "train", name

    found = {}
    for name in sorted(names, key=order):
        by_variant = {v: [c[name] for c in runs if name in c] for v, runs in read.items()}
        edges = _edges([curve for curves in by_variant.values() for curve in curves])
        found[name] = {v: _band(curves, edges) for v, curves in by_variant.items() if curves}
    return found, damaged


def _curves(run: Run) -> dict[str, Curve]:
    points: dict[str, tuple[list[int], list[float]]] = {}
    for record in read_records(run.cell.run):
        for name, value in record.values.items() if record.split not in LEFT_OUT else ():
            if name not in LEFT_OUT and math.isfinite(value):
                steps, values = points.setdefault(f"{record.split}/{name}", ([], []))
                steps.append(record.step)
                values.append(value)
    return {name: (np.array(s), np.array(v, float)) for name, (s, v) in points.items()}


def _edges(curves: list[Curve]) -> np.ndarray:
    """Lower ends of the parts of the step axis: the steps themselves while they are few."""
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    if len(steps) <= POINTS:
        return steps
    return np.linspace(steps[0], steps[-1] + 1, POINTS + 1)[:-1]


def _band(curves: list[Curve], edges: np.ndarray) -> Band:
    at, values = np.array([_binned(curve, edges) for curve in curves]).transpose(1, 0, 2)
    seen = ~np.isnan(values).all(axis=0)
    at, values = at[:, seen], values[:, seen]
    return Band(
        np.nanmean(at, axis=0),
        np.nanmean(values, axis=0),
        np.nanmin(values, axis=0),
        np.nanmax(values, axis=0),
    )


def _binned(curve: Curve, edges: np.ndarray) -> np.ndarray:
    """Mean step and mean value in each part; NaN where there is no point."""
    steps, values = curve
    place = np.searchsorted(edges, steps, side="right") - 1
    count = np.bincount(place, minlength=len(edges))
    sums = [np.bincount(place, weights=x, minlength=len(edges)) for x in (steps, values)]
    return np.where(count, np.array(sums) / np.maximum(count, 1), np.nan)


def pareto(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """The names of `(cost, quality)` that no other beats: cheaper and no worse, or better and no
    dearer; by cost. Equals stand together.
    """
    front: list[str] = []
    best = -math.inf
    for cost in sorted({cost for cost, _ in points.values()}):
        here = {name: quality for name, (c, quality) in points.items() if c == cost}
        top = max(here.values())
        if top > best:
            front += [name for name, quality in here.items() if quality == top]
            best = top
    return tuple(front)
