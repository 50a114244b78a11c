"""`jaxdl profile`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich
from rich.table import Table

from jaxdl.bench.profile import Profile, Row
from jaxdl.bench.profile import profile as take_profile
from jaxdl.cli import screen
from jaxdl.cli.train import Edits, Spec
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_experiment
from jaxdl.train import build

ROWS = 15
"""Longest rows of a table; the JSON has them all."""
TABLES = ("phases", "modules", "kinds", "ops")


def profile(
    exp: Spec,
    edits: Edits = (),
    steps: int = 5,
    out: Path = Path("build/profile"),
    json: screen.Flag = False,
) -> int:
    """Show where the time of an experiment's training step goes.

    By phase, by module, by kind of operation, and the slowest operations with their module; also
    compile time, memory of the compiled step, FLOPs, and the share of time in which it computed.
    The trace also opens in Perfetto and TensorBoard.

    Example: jaxdl profile experiments/quickstart.py --set data.batch=256

    Args:
        exp: experiment file, and one of its ABLATIONS.
        edits: changes one field, e.g. model.width=64; repeat for more.
        steps: steps to trace.
        out: folder for the trace.
        json: print one JSON object per row.
    """
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1.")
    experiment, _ = load_experiment(exp, edits)
    found = take_profile(build(experiment), out, steps)
    summary = _summary(found)
    if json:
        screen.print_json({"table": "summary", **summary, "trace": str(out)})
        for name in TABLES:
            for row in getattr(found, name):
                screen.print_json({"table": name, **asdict(row)})
        return 0
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, value in summary.items():
        grid.add_row(name.replace("_", " "), _number(value))
    rich.print(grid)
    for name in TABLES:
        _print_rows(name, getattr(found, name))
    rich.print(f"trace in {out}")
    return 0


def _summary(found: Profile) -> dict[str, Any]:
    return {
        "step_ms": found.step_ms,
        "device_share": found.device_share,
        "compile_s": found.compile_s,
        "first_batch_s": found.first_batch_s,
        "gflop_per_step": found.flops / 1e9,
        "gflops_per_s": found.flops / found.step_ms / 1e6,
        **{f"{name}_mb": size for name, size in found.memory_mb.items()},
    }


def _print_rows(name: str, rows: list[Row]) -> None:
    """The longest rows with their share of the whole; GFLOP/s where FLOPs were counted."""
    total = sum(row.ms for row in rows)
    counted, placed = any(row.flops for row in rows), any(row.module for row in rows)
    shown = Table(name, box=None, pad_edge=False)
    for column in ("ms", "%", *["GFLOP/s"] * counted):
        shown.add_column(column, justify="right")
    if placed:
        shown.add_column("of")
    for row in rows[:ROWS]:
        rate = _number(row.flops / row.ms / 1e6) if row.flops and row.ms else ""
        place = f"{row.phase} {row.module.partition('/')[2]}"
        cells: Iterable[str] = (*[rate] * counted, *[place] * placed)
        label = row.name or "(outside modules)"
        shown.add_row(label, f"{row.ms:.3f}", f"{100 * row.ms / total:.1f}", *cells)
    rich.print()
    rich.print(shown)


def _number(value: float) -> str:
    return f"{value:,.4g}"
