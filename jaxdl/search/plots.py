"""Pictures of a sweep: what mattered, and which choices went where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from jaxdl.search.space import Choice, Domain, Integer, LogUniform, Space

IMPORTANCE, PARALLEL = "importance.png", "parallel.png"
COLOURS = "viridis"
LABEL = 18
"""Characters of a choice that are shown."""


def draw_importance(file: Path, shares: Mapping[str, float], objective: str) -> None:
    """A bar per parameter: its share in the spread of the objective."""
    names = sorted(shares, key=lambda name: shares[name])
    figure = Figure(figsize=(7, 0.9 + 0.45 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(names, [shares[name] for name in names], color="C0", height=0.6)
    axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=4)
    axes.set(xlim=(0, 1.1), xlabel=f"share in the spread of {objective} (fANOVA)")
    axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def draw_parallel(
    file: Path,
    space: Space,
    points: Sequence[tuple[Mapping[str, Any], float]],
    objective: str,
    best: int,
) -> None:
    """A line per trial (its parameters and objective) over an axis per parameter; that of the
    `best` is thick."""
    paths = list(space)
    figure = Figure(figsize=(2.2 + 2.0 * len(paths), 4.6), layout="constrained")
    axes = figure.add_subplot()
    values = [value for _, value in points]
    norm = Normalize(*_around(min(values), max(values)))
    heights = [[_height(space[p], labels[p]) for p in paths] for labels, _ in points]
    drawn = ScalarMappable(norm, COLOURS)
    for i in sorted(range(len(points)), key=lambda i: i == best):
        ys = [*heights[i], float(norm(values[i]))]
        style: dict[str, Any] = {"linewidth": 1.1, "alpha": 0.75}
        if i == best:
            edge = [Stroke(linewidth=5, foreground="0.15"), Normal()]
            style = {"linewidth": 3, "zorder": 3, "path_effects": edge}
        axes.plot(range(len(ys)), ys, color=drawn.to_rgba(values[i]), **style)
    for x, path in enumerate(paths):
        _axis(axes, x, _ticks(space[path]))
    ticks = [(float(norm(v)), f"{v:.4g}") for v in np.linspace(norm.vmin, norm.vmax, 5)]
    _axis(axes, len(paths), ticks)
    axes.set_xticks(range(len(paths) + 1), [*paths, f"{objective}\n(best: thick line)"])
    axes.set(ylim=(-0.06, 1.06), xlim=(-0.35, len(paths) + 0.35))
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    figure.savefig(file, dpi=110)


def _axis(axes: Axes, x: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(x, ymin=0.05, ymax=0.95, color="0.3", linewidth=0.8, zorder=1)
    box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
    for height, text in ticks:
        axes.text(x + 0.04, height, text, fontsize=8, va="center", bbox=box, zorder=4)


def _height(domain: Domain, label: Any) -> float:
    """Where a value lies between the ends of its axis, 0 to 1."""
    if isinstance(domain, Choice):
        return (list(domain.labels).index(label) + 0.5) / len(domain.labels)
    scale = np.log if _is_log(domain) else np.asarray
    low, high, value = (float(scale(v)) for v in (domain.low, domain.high, label))
    return (value - low) / (high - low)


def _ticks(domain: Domain) -> list[tuple[float, str]]:
    if isinstance(domain, Choice):
        shown = {label: str(label) for label in domain.labels}
        short = {k: v if len(v) <= LABEL else v[: LABEL - 1] + "…" for k, v in shown.items()}
        return [(_height(domain, label), text) for label, text in short.items()]
    space = np.geomspace if _is_log(domain) else np.linspace
    values = space(domain.low, domain.high, 5)
    if isinstance(domain, Integer):
        values = sorted({round(value) for value in values})
    return [(_height(domain, value), f"{value:.3g}") for value in values]


def _is_log(domain: Domain) -> bool:
    return isinstance(domain, LogUniform) or (isinstance(domain, Integer) and domain.log)


def _around(low: float, high: float) -> tuple[float, float]:
    return (low, high) if low < high else (low - 0.5, high + 0.5)
