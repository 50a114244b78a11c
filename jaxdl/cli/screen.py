"""What commands print: tables on stdout, or one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import rich
import tyro
from rich.table import Table

from jaxdl.core.records import Result, finite
from jaxdl.nn import table as model_table
from jaxdl.train import Program

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag without its `--no-` twin."""
MODEL_DEPTH = 3
"""Modules nested deeper are counted in the one above."""


def print_json(value: Mapping[str, Any]) -> None:
    """One object, one line, nothing else on stdout; NaN and infinity become null."""
    print(json.dumps(finite(value), allow_nan=False))


def print_model(program: Program) -> None:
    """Modules of one evaluation with parameters, output shapes and forward FLOPs per example."""
    exp = program.experiment

    def evaluate(state, batch):
        return exp.task.evaluate(exp.model, state.params, state.model, batch, state.key)

    counted = model_table(evaluate, program.abstract, program.eval_batch)
    examples = next(iter(program.eval_batch.values())).shape[0]
    shown = Table("module", "type", "output", box=None, pad_edge=False)
    shown.add_column("parameters", justify="right")
    shown.add_column("FLOPs / example", justify="right")
    for row in counted.rows:
        *above, name = row.path.split("/")
        if len(above) < MODEL_DEPTH:
            inside = (r.flops for r in counted.rows if f"{r.path}/".startswith(f"{row.path}/"))
            shape = str(row.shape).replace(f"({examples},", "(B,", 1)
            flops = f"{sum(inside) // examples:,}"
            shown.add_row("  " * len(above) + name, row.type, shape, f"{row.params:,}", flops)
    total = f"{counted.flops // examples:,}"
    shown.add_row("total", "", "", f"{counted.params:,}", total, style="bold")
    rich.print(shown)


def print_metrics(metrics: Mapping[str, Mapping[str, float]], primary: str) -> None:
    """One row per metric, one column per split."""
    splits = list(metrics)
    shown = Table("metric", box=None, pad_edge=False)
    for split in splits:
        shown.add_column(split, justify="right")
    for name in dict.fromkeys(name for values in metrics.values() for name in values):
        bold = "bold" if primary.endswith(f"/{name}") else None
        values = [metrics[split].get(name) for split in splits]
        shown.add_row(name, *("" if v is None else f"{v:.4f}" for v in values), style=bold)
    rich.print(shown)


def print_result(result: Result, places: Mapping[str, Any]) -> None:
    """How a run ended, its metrics, and where everything is."""
    rich.print(f"[bold]{result.status}[/bold] after {result.steps} steps, {result.seconds:.1f} s")
    if result.best:
        rich.print(
            f"best {result.primary} {result.best['value']:.4f} at step {result.best['step']}"
        )
    if result.metrics:
        print_metrics(result.metrics, result.primary)
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, place in places.items():
        grid.add_row(name, str(place), style="dim")
    rich.print(grid)
