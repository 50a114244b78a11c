"""Learning curves from a run's records."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from jaxdl.core.records import Record, read_records

CURVES = "curves.png"
STYLES = {"train": "C0-", "valid": "C1o-", "test": "C2s-"}
"""Colour, marker and line of each split."""
Series = dict[str, dict[str, list[tuple[int, float]]]]


def series(records: Iterable[Record]) -> Series:
    """Points (step, value) by metric and split; what only rates the machine is left out."""
    found: Series = {}
    for record in records:
        for name, value in record.values.items() if record.split in STYLES else ():
            found.setdefault(name, {}).setdefault(record.split, []).append((record.step, value))
    return {name: found[name] for name in sorted(found, key=_order)}


def draw_curves(directory: Path) -> Path | None:
    """Writes curves.png, a panel per metric with all its splits; None when nothing was recorded."""
    metrics = series(read_records(directory))
    metrics.pop("skipped", None)
    if not metrics:
        return None
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    for i, (name, splits) in enumerate(metrics.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for split, points in splits.items():
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, STYLES[split], label=split, markersize=4, linewidth=1.4)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(directory / CURVES, dpi=110)
    return directory / CURVES


def _order(name: str) -> tuple[bool, str]:
    """Losses first, then the rest by name."""
    return "loss" not in name, name
