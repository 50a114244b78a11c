"""`jaxdl profile`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import rich
from rich.table import Table

from jaxdl.bench.profile import Profile, Row
from jaxdl.bench.profile import profile as take_profile
from jaxdl.bench.trace import LABELLED
from jaxdl.cli import screen
from jaxdl.cli.train import Edits, Spec
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_experiment
from jaxdl.train import build

ROWS = 15
"""Longest rows of a table; the JSON has them all."""
TABLES = {
    "phases": "",
    "modules": "(outside modules)",
    "lines": "(no line)",
    "kinds": "",
    "ops": "",
}
"""What each calls the time that belongs to none."""
READABLE = {
    "step_ms": ("step, its batch at hand", "{:,.4g} ms"),
    "fed_step_ms": ("step with its input", "{:,.4g} ms"),
    "input_wait_share": ("  of that waiting for input", "{:.1%}"),
    "device_idle_share": ("  device idle", "{:.1%}"),
    "lower_s": ("tracing and lowering", "{:,.3g} s"),
    "compile_s": ("compiling", "{:,.3g} s"),
    "compile_share": ("  both, of the whole run", "{:.1%}"),
    "first_batch_s": ("first batch", "{:,.3g} s"),
    "gflop_per_step": ("computation of a step", "{:,.4g} GFLOP"),
    "gflops_per_s": ("  with its batch at hand", "{:,.4g} GFLOP/s"),
    "argument_mb": ("memory of arguments", "{:,.4g} MB"),
    "output_mb": ("  of results", "{:,.4g} MB"),
    "alias_mb": ("  of results in place of arguments", "{:,.4g} MB"),
    "temp_mb": ("  besides, while it runs", "{:,.4g} MB"),
    "generated_code_mb": ("  of the program", "{:,.4g} MB"),
}
"""How a summary's values are told to a person."""
TPUS = ("accel*", "vfio/[0-9]*")
"""How a TPU's devices are called under /dev."""
CUDA = ("jax_cuda13_plugin", "jax_cuda12_plugin")
WAITING = 0.1
"""Share of its time from which on a step's waiting for its batch is worth a word."""


def profile(
    exp: Spec,
    edits: Edits = (),
    steps: int = 5,
    out: Path = Path("build/profile"),
    json: screen.Flag = False,
) -> int:
    """Show where the time of an experiment's training step goes.

    By phase, by module, by line of code, by kind of operation, and the slowest operations with
    their module; also what compiling costs beside a whole run, how long a step waits for its batch,
    how long the device is idle, memory of the compiled step, and FLOPs. The trace opens in
    TensorBoard, and in Perfetto: labelled.json.gz names each operation by its phase and module.

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
    out.mkdir(parents=True, exist_ok=True)  # before any device work
    _leave_absent_tpus_alone()
    found = take_profile(build(experiment), out, steps)
    summary = _summary(found)
    if json:
        screen.print_json({"table": "summary", **summary, "trace": str(out)})
        for name in TABLES:
            for row in getattr(found, name):
                screen.print_json({"table": name, **asdict(row)})
        return 0
    _print_summary(summary)
    rich.print("\nTime per step; what runs at once, on threads or devices, adds up.")
    for name in TABLES:
        _print_rows(name, getattr(found, name))
    if found.input_wait_share > WAITING:
        rich.print(
            f"A step waits {found.input_wait_share:.0%} of its time for its batch: let several "
            "processes prepare them (jaxdl train --workers), or make data.train_transform cheaper."
        )
    print(f"\ntrace  {out}\n       {out / LABELLED} for https://ui.perfetto.dev")
    return 0


def _leave_absent_tpus_alone() -> None:
    """Looking for TPUs loads libtpu where it is installed, to compile for absent ones; then its
    profiler, mostly of another version than jaxlib's, would end this process."""
    here = any(found for place in TPUS for found in Path("/dev").glob(place))
    if here or jax.config.jax_platforms or not find_spec("libtpu"):
        return
    gpu = Path("/dev/nvidiactl").exists() and any(map(find_spec, CUDA))
    jax.config.update("jax_platforms", "cuda,cpu" if gpu else "cpu")


def _summary(found: Profile) -> dict[str, Any]:
    fields = ("step_ms", "fed_step_ms", "input_wait_share", "device_idle_share")
    start = ("lower_s", "compile_s", "compile_share", "first_batch_s")
    return {
        **{name: getattr(found, name) for name in (*fields, *start)},
        "gflop_per_step": found.flops / 1e9,
        "gflops_per_s": found.flops / found.step_ms / 1e6,
        **{f"{name}_mb": size for name, size in found.memory_mb.items()},
    }


def _print_summary(summary: Mapping[str, float]) -> None:
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, value in summary.items():
        words, shown = READABLE[name]
        grid.add_row(words, *shown.format(value).split(" "))
    grid.columns[1].justify = "right"
    rich.print(grid)


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
        label = row.name or TABLES[name]
        shown.add_row(label, f"{row.ms:.3f}", f"{100 * row.ms / total:.1f}", *cells)
    rich.print()
    rich.print(shown)


def _number(value: float) -> str:
    return f"{value:,.4g}"
