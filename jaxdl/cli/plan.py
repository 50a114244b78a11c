"""`jaxdl plan`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import jax
import rich
import tyro
from rich.table import Table

from jaxdl.cli import screen
from jaxdl.cli.train import Edits, Spec
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_experiment
from jaxdl.plan import Audit, Collective, Plan, compiled, devices
from jaxdl.plan import audit as take_audit
from jaxdl.train import build

ROWS = 20
"""Longest rows of a table; the JSON has them all."""
SHOWN = {"other_state": "other state", "host": "in the host's memory", "peak": "peak on the device"}
"""Names of memory that are not shown as they are."""
On = Annotated[str, tyro.conf.arg(metavar="HARDWARE")]


def plan(
    exp: Spec,
    on: On,
    edits: Edits = (),
    audit: screen.Flag = False,
    large_mb: float = 64.0,
    json: screen.Flag = False,
) -> int:
    """Compile an experiment's real training step for hardware that need not be there.

    Tells whether it fits, the memory of one device, the time to compile, and a time that a step
    takes at least. The audit tells where every parameter lies, and what the devices send each
    other, against the least that the strategy needs.

    Example: jaxdl plan experiments/quickstart.py --on v5e:2x2 --audit --set mesh.fsdp=4

    Exit code 1 if it does not fit.

    Args:
        exp: experiment file, and one of its ABLATIONS.
        on: v5e:4x4, v5p:4x4x4, v6e:2x2, '2x v5e:4x4' (two slices), h200:8 or cpu:8.
        edits: changes one field, e.g. mesh.model=4; repeat for more.
        audit: show parameters, large tensors that every device holds, and every collective.
        large_mb: how large those tensors are.
        json: print one JSON object per row.
    """
    if large_mb <= 0:
        raise InputError(f"large_mb={large_mb} must be above 0.")
    experiment, _ = load_experiment(exp, edits)
    _compute_here_on_cpu(on)
    program = build(experiment, devices(on))
    found = compiled(program)
    audited = take_audit(program, found, large_mb * 1e6) if audit else None
    (_print_json if json else _print)(on, found, audited)
    return 0 if found.fits is not False else 1


def _compute_here_on_cpu(on: str) -> None:
    """What this process itself computes, for absent hardware, needs no accelerator; looking for one
    that is not there takes time and prints warnings."""
    if not on.startswith("cpu") and not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")


def _print_json(on: str, found: Plan, audited: Audit | None) -> None:
    summary = asdict(found)
    collectives = summary.pop("collectives")
    screen.print_json({"table": "plan", "on": on, **summary})
    if audited:
        rows = {"parameter": audited.parameters, "traffic": audited.traffic}
        for table, each in rows.items():
            for row in each:
                screen.print_json({"table": table, **asdict(row)})
        for path, size in audited.whole.items():
            screen.print_json({"table": "whole", "path": path, "bytes": size})
        for row in collectives:
            screen.print_json({"table": "collective", **row})


def _print(on: str, found: Plan, audited: Audit | None) -> None:
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _summary(on, found).items():
        grid.add_row(name, value)
    rich.print(grid)
    for line in found.largest:
        rich.print(f"  {line}", style="dim")
    if audited:
        _print_parameters(audited)
        _print_traffic(audited)
        _print_collectives(found.collectives)


def _summary(on: str, found: Plan) -> dict[str, str]:
    mesh = ", ".join(f"{name}={size}" for name, size in found.mesh.items())
    fits = {True: "[green]yes[/green]", False: "[red]NO[/red]", None: "not known"}[found.fits]
    room = f" of {_size(found.limit)}" if found.limit else ""
    shown = {"on": f"{on}: {found.devices} x {found.kind}, mesh {mesh or 'of one device'}"}
    shown["fits"] = f"{fits} {found.told}"
    for name, size in found.memory.items():
        shown[SHOWN.get(name, name)] = _size(size) + room * (name == "peak")
    shown["compile"] = f"{found.compile_s:.1f} s, {found.hlo_bytes / 1e6:.1f} MB of HLO"
    shown["FLOPs per step"] = f"{found.flops:,.4g}"
    if found.step_s is not None:
        parts = ", ".join(f"{name} {_time(s)}" for name, s in found.at_least_s.items())
        shown["a step takes at least"] = f"{_time(found.step_s)} ({parts})"
    return shown


def _print_parameters(audited: Audit) -> None:
    shown = Table("parameter", "shape", "names", "on", box=None, pad_edge=False)
    shown.add_column("a device has", justify="right")
    for row in audited.parameters:
        names = ", ".join(str(name or "-") for name in row.names)
        spec = ", ".join(_axes(axes) or "-" for axes in row.spec)
        shown.add_row(row.path, str(row.shape), names, spec, _size(row.bytes))
    rich.print("", shown, sep="\n")
    if audited.whole:
        rich.print("\n[yellow]every device holds the whole of[/yellow]")
        for path, size in audited.whole.items():
            rich.print(f"  {path}  {_size(size)}")


def _print_traffic(audited: Audit) -> None:
    shown = Table("a device sends along", box=None, pad_edge=False)
    for column in ("per step", "at least", "ratio"):
        shown.add_column(column, justify="right")
    shown.add_column("of it")
    for row in audited.traffic:
        kinds = ", ".join(f"{kind} {_size(size)}" for kind, size in row.kinds.items())
        least = _size(row.minimum) if row.minimum else ""
        ratio = f"{row.ratio:.2f}" if row.ratio else ""
        shown.add_row(_axes(row.axes), _size(row.bytes), least, ratio, kinds)
    rich.print("", shown, sep="\n")


def _print_collectives(found: tuple[Collective, ...]) -> None:
    """The collectives of each line of the model, together."""
    total, times = Counter(), Counter()
    for one in found:
        key = one.kind, one.axes, "/".join(one.op.split("/")[-3:]), one.line
        total[key] += one.total
        times[key] += one.trips
    shown = Table("collective", "along", box=None, pad_edge=False)
    for column in ("times", "bytes"):
        shown.add_column(column, justify="right")
    shown.add_column("for")
    for key, size in total.most_common(ROWS):
        kind, axes, op, line = key
        place = "/".join(line.split("/")[-2:])
        shown.add_row(kind, _axes(axes), str(times[key]), _size(size), f"{op}  [dim]{place}[/dim]")
    rich.print("", shown, sep="\n")


def _axes(axes: tuple[str, ...]) -> str:
    return " x ".join(axes)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.4g} {unit}"
        count /= 1000
    raise AssertionError


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms"
