"""The pictures of a report: learning curves, a dot per seed, cost against quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdl.report.bands import Band, pareto
from jaxdl.report.comparison import Metric, Study
from jaxdl.report.runs import COSTS
from jaxdl.report.svg import HEIGHT, WIDTH, Axis, Chart, span
from jaxdl.report.words import fixed, seeds

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 38
MARKS_ON_A_LINE = 4
NAMED = 12
"""Most variants whose names stand beside their marks."""
ROW, LETTER = 24, 5.8
"""Height of a row, and about the width of a letter."""
SETTLING = 0.2
"""The share of the steps, from the start, whose values do not stretch the axis."""


def draw_curve(
    name: str, curves: Mapping[str, Band], order: Sequence[str], i: int, factor: float
) -> Chart:
    """Mean of each variant by step, with a band from its lowest to its highest seed."""
    end = max(band.steps[-1] for band in curves.values())
    settled = [
        v
        for band in curves.values()
        for part in (band.mean, band.low, band.high)
        for v in part[(band.steps >= SETTLING * end) | (len(band.steps) < 5)]
    ]
    chart = Chart(
        f"curve-{i}",
        name + (", %" if factor == 100 else ""),
        "Last values: "
        + ", ".join(f"{v} {fixed(b.mean[-1] * factor, math.nan)}" for v, b in curves.items()),
        Axis(*span([0, end], room=0), LEFT, WIDTH - RIGHT),
        Axis(*span(settled), HEIGHT - BOTTOM, TOP),
    )
    chart.axes("step", factor=factor)
    for variant, band in curves.items():
        style = order.index(variant)
        if (band.high > band.low).any():
            chart.band(
                [*zip(band.steps, band.high, strict=True)],
                [*zip(band.steps, band.low, strict=True)],
                style,
            )
        chart.line(zip(band.steps, band.mean, strict=True), style)
        # Staggered, so that markers of curves that coincide do not.
        places = np.linspace(0, len(band.steps) - 1, MARKS_ON_A_LINE + 1) - 2 * style
        for at in sorted({int(p) for p in places if p >= 0}):
            step, value = band.steps[at], band.mean[at]
            if chart.y.low <= value <= chart.y.high:
                told = f"{variant}, step {step:.0f}: {fixed(value * factor, math.nan)}"
                chart.mark(step, value, style, told)
    return chart


def draw_dots(metric: Metric) -> Chart:
    """A dot per seed, and each variant's mean with its interval, one variant a row."""
    rows = [row for row in metric.rows if row.values]
    factor = metric.scale.factor
    ends = [e for r in rows for e in (r.mean.mean - r.mean.half, r.mean.mean + r.mean.half)]
    shown = [v for row in rows for v in row.values.values()] + ends
    left = 118
    height = TOP + ROW * len(rows) + BOTTOM
    unit = ", %" if metric.scale.share else ""
    chart = Chart(
        "dots",
        f"{metric.name} of every seed",
        "; ".join(f"{r.variant} {metric.scale.interval(r.mean.mean, r.mean.half)}" for r in rows),
        Axis(*span([v * factor for v in shown]), left, WIDTH - RIGHT),
        Axis(len(rows) - 0.5, -0.5, height - BOTTOM, TOP),
        height,
    )
    chart.axes(metric.name + unit, y_ticks=False)
    for i, row in enumerate(rows):
        chart.text(left - 8, chart.y.at(i) + 4, clipped(row.variant, 18), "end")
        if math.isfinite(row.mean.half):
            ends = [(row.mean.mean + s * row.mean.half) * factor for s in (-1, 1)]
            chart.bar(ends[0], ends[1], i, i)
        for seed, value in row.values.items():
            told = f"{row.variant}, seed {seed}: {fixed(value * factor, math.nan)}"
            chart.mark(value * factor, i - 0.24, i, told, "dot", 0.7)
        told = f"{row.variant}: {metric.scale.interval(row.mean.mean, row.mean.half)}"
        chart.mark(row.mean.mean * factor, i, i, told)
    return chart


def costs_of(study: Study, cost: str) -> dict[str, float]:
    """Mean cost of each variant that recorded it."""
    found = {v: [r.costs[cost] for r in study.of(v) if cost in r.costs] for v in study.variants}
    return {v: sum(costs) / len(costs) for v, costs in found.items() if costs}


def front_of(study: Study, cost: str) -> tuple[str, ...]:
    """The variants that none beats in both this cost and the headline metric."""
    metric = study.headline
    if metric is None or not metric.scale.mode:
        return ()
    sign = 1 if metric.scale.mode == "max" else -1
    quality = {row.variant: sign * row.mean.mean for row in metric.rows if row.values}
    costs = costs_of(study, cost)
    return pareto({v: (costs[v], quality[v]) for v in costs if v in quality})


def draw_cost(study: Study, metric: Metric, cost: str) -> Chart | None:
    """Quality over a cost with the Pareto front; None where all cost the same."""
    factor = metric.scale.factor
    means = {row.variant: row.mean.mean * factor for row in metric.rows if row.values}
    costs = {v: c for v, c in costs_of(study, cost).items() if v in means}
    if len(set(costs.values())) < 2:
        return None
    front, order = front_of(study, cost), study.variants
    chart = Chart(
        f"cost-{cost}",
        f"{metric.name} against {COSTS[cost]}",
        f"Not beaten in both: {', '.join(front)}." if front else "No way is known to be better.",
        Axis(*span(costs.values(), log=True), LEFT, WIDTH - RIGHT, log=True),
        Axis(*span((means[v] for v in costs), room=0.12), HEIGHT - BOTTOM, TOP),
    )
    chart.axes(COSTS[cost] + " (log)")
    _step(chart, [(costs[v], means[v]) for v in front])
    for variant, at in costs.items():
        style, value = order.index(variant), means[variant]
        told = f"{variant} ({seeds(len(study.of(variant)))}): {fixed(value, math.nan)}"
        chart.mark(at, value, style, told, "mark" if variant in front else "mark hollow")
    if len(costs) <= NAMED:
        _name(chart, {v: (costs[v], means[v]) for v in costs})
    return chart


def _name(chart: Chart, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes names beside points, each below the one that it would cover."""
    taken: list[tuple[float, float, float]] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        at, line, told = chart.x.at(x), chart.y.at(y) - 6, clipped(name, 22)
        right = at > (LEFT + WIDTH) / 2
        start = at - 8 - LETTER * len(told) if right else at + 8
        end = start + LETTER * len(told)
        while any(a < end and start < b and abs(line - other) < 11 for a, b, other in taken):
            line += 11
        taken.append((start, end, line))
        chart.text(at - 8 if right else at + 8, line, told, "end" if right else "start")


def clipped(name: str, most: int) -> str:
    """`name`, cut where it would not fit."""
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _step(chart: Chart, front: Sequence[tuple[float, float]]) -> None:
    """The border of what the front leaves possible."""
    if not front:
        return
    corners = [front[0]]
    for cost, value in front[1:]:
        corners += [(cost, corners[-1][1]), (cost, value)]
    chart.line([*corners, (chart.x.high, corners[-1][1])], 0, "front")
