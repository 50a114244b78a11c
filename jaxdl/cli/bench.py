"""`jaxdl bench`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import rich
import tyro
from rich.table import Table

from jaxdl.bench import machine
from jaxdl.bench.inputs import TASKS, measure_input
from jaxdl.bench.kernels import WORKLOADS as KERNELS
from jaxdl.bench.kernels import measure_kernel
from jaxdl.bench.loop import measure_loop
from jaxdl.bench.step import measure_step
from jaxdl.bench.workloads import WORKLOADS
from jaxdl.cli import screen
from jaxdl.core.errors import InputError, suggest

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain", "keras", "torch", "lightning")
COLUMNS = {
    "step": {
        "ms": "step_ms",
        "ratio": "ratio",
        "CPU ms": "cpu_ms",
        "CPU ratio": "cpu_ratio",
        "per s": "units_per_s",
        "GFLOP/s": "gflops_per_s",
        "MB": "peak_rss_mb",
        "start s": "compile_s",
        "loss": "loss",
    },
    "loop": {
        "CPU us": "cpu_us",
        "beyond bare": "overhead_us",
        "wall us": "wall_us",
        "start ms": "start_ms",
        "MB": "peak_rss_mb",
        "start s": "compile_s",
    },
    "kernels": {
        "ms": "ms",
        "ratio": "ratio",
        "CPU ms": "cpu_ms",
        "CPU ratio": "cpu_ratio",
        "temp MB": "temp_mb",
        "start s": "compile_s",
    },
    "input": {
        "images/s": "images_per_s",
        "per CPU s": "images_per_cpu_s",
        "CPU ratio": "cpu_ratio",
        "MB": "peak_rss_mb",
        "start s": "compile_s",
    },
}
"""What a table shows: heading -> name in the record. The JSON has it all."""
TEXT = ("missing", "error", "note")

What = Annotated[
    tyro.conf.Positional[Literal["step", "loop", "input", "kernels"]],
    tyro.conf.arg(metavar="step|loop|input|kernels"),
]
Names = Annotated[str, tyro.conf.arg(metavar="NAME,NAME")]


def bench(
    what: What,
    workloads: Names = "",
    peers: screen.Flag = False,
    rounds: int = 5,
    seconds: float = 2.0,
    one_core: screen.Flag = False,
    json: screen.Flag = False,
) -> int:
    """Measure a training step, the loop around it, the input of images, or single kernels.

    Each is measured beside the same written by hand, and with --peers beside other frameworks, in
    processes of their own that take turns: compare the ratios, not times from different runs.

    Example: jaxdl bench step --workloads gpt,resnet18 --peers

    Exit code 1 if a measurement failed.

    Args:
        what: `step` is one training step; `loop` what a run costs beyond it, over 5,000 steps of a
            single linear layer; `input` images per second; `kernels` attention, normalisation and
            cross-entropy by themselves, forward and backward.
        workloads: some of resnet18, resnet50, vit, gpt, lstm (step), of arrays, jpeg (input), or of
            attention-1k, attention-2k, layer-norm, linear-cross-entropy and more (kernels).
        peers: also Keras, PyTorch, Lightning and grain where they are installed.
        rounds: turns of each peer.
        seconds: length of a turn, but for loop.
        one_core: keep all on one core, one thread each; then compare CPU times.
        json: print one JSON object per measurement.
    """
    if rounds < 1 or seconds <= 0:
        raise InputError(f"rounds={rounds} must be at least 1 and seconds={seconds} positive.")
    options: dict[str, Any] = {"peers": peers, "rounds": rounds, "one_core": one_core}
    if what != "loop":
        options["seconds"] = seconds
    known = {"step": WORKLOADS, "input": TASKS, "kernels": KERNELS, "loop": {}}[what]
    names = [name for name in workloads.split(",") if name] or list(known)
    for name in names:
        if name not in known:
            raise InputError(f"unknown workload {name!r} of {what}; {suggest(name, known)}.")
    if not json:
        rich.print("  ".join(f"{k} {v}" for k, v in _flat(machine.describe(PACKAGES)).items()))
    fine = True
    for records in _measurements(what, names, options):
        fine &= (_print_json if json else _print_table)(records)
    return 0 if fine else 1


def _measurements(
    what: str, names: Iterable[str], options: Mapping[str, Any]
) -> Iterator[Iterable[Mapping[str, Any]]]:
    if what == "loop":
        yield measure_loop(**options)
    for name in names:
        if what == "step":
            yield measure_step(name, WORKLOADS[name], **options)
        elif what == "kernels":
            yield measure_kernel(name, KERNELS[name], **options)
        else:
            yield measure_input(name, **options)


def _print_json(records: Iterable[Mapping[str, Any]]) -> bool:
    fine = True
    for record in records:
        screen.print_json({**_rounded(record), **machine.describe(PACKAGES)})
        fine &= "error" not in record
    return fine


def _print_table(records: Iterable[Mapping[str, Any]]) -> bool:
    """One row per peer; below it, what could not be measured and what sums it up."""
    records = [_rounded(record) for record in records]
    headings = COLUMNS[records[0]["bench"]].items()
    present = {name: key for name, key in headings if any(key in r for r in records)}
    unit = next((f" ({r['unit']})" for r in records if "unit" in r), "")
    shown = Table(records[0].get("workload", "loop") + unit, box=None, pad_edge=False)
    for name in present:
        shown.add_column(name, justify="right")
    for record in records:
        if record.keys() & present.values():
            shown.add_row(record["peer"], *(_cell(record.get(key)) for key in present.values()))
    rich.print(shown)
    for record in records:
        told = [str(record[name]) for name in TEXT if name in record]
        if not told and not record.keys() & present.values():
            told = [f"{k} {_cell(v)}" for k, v in record.items() if k not in ("bench", "peer")]
        if told:
            print(f"{record['peer']}: {', '.join(told)}")
    return all("error" not in record for record in records)


def _rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _flat(described: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in described.items() if k != "versions"} | described["versions"]
