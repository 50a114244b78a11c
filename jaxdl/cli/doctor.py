"""`jaxdl doctor`."""

from __future__ import annotations

import json as json_format
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import rich
import tyro
from rich.table import Table

from jaxdl.cli import screen, versions
from jaxdl.core import records
from jaxdl.data.files import data_folder
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.passport import PACKAGES

START_SECONDS = 0.3
"""What `import jaxdl` should stay below."""
PATIENCE = 120
"""Seconds that devices have to answer."""
DEVICES = """
import json, os, jax
memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
for d in jax.devices():
    stats = d.memory_stats() or {}
    print(json.dumps([d.device_kind, stats.get("bytes_limit", memory)]))
"""
"""Run in a process of its own: an unknown flag in XLA_FLAGS ends the process that reads it."""
Run = Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")]


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    check: str
    ok: bool
    told: str
    warning: bool = False
    """Worth knowing, though nothing is broken."""


def doctor(run: Run = None, json: screen.Flag = False) -> int:
    """Check the installation, or the integrity of every checkpoint of a run.

    Example: jaxdl doctor runs/quickstart/base-1a2b3c4d

    Exit code 1 if a check fails; versions that were not tested together are only warned of.

    Args:
        run: run directory.
        json: print one JSON object per check.
    """
    checks = _installation() if run is None else _checkpoints(run)
    if json:
        for check in checks:
            screen.print_json(asdict(check))
    else:
        shown = Table("check", "", "", box=None, pad_edge=False)
        for check in checks:
            mark = "[yellow]warning[/yellow]" if check.warning else "[green]ok[/green]"
            shown.add_row(check.check, mark if check.ok else "[red]FAIL[/red]", check.told)
        rich.print(shown)
    return 0 if all(check.ok for check in checks) else 1


def _installation() -> list[Check]:
    have = versions.installed()
    checks = [
        Check(f"version {name}", name in have, have.get(name, "missing"))
        for name in ("jaxdl", *PACKAGES)
    ]
    lost = versions.absent(have)
    told = f"missing: {', '.join(lost)}; reinstall with `make quickstart` or `pip install -e .`"
    checks.append(Check("requirements", not lost, told if lost else "all there"))
    checks += [Check("conflict", False, told) for told in versions.conflicts(have)]
    fine, told = versions.tested(have)
    checks.append(Check("versions together", True, told, warning=not fine))
    checks += [_devices(), _start()]
    return [*checks, _writable("runs", Path("runs")), _writable("data", data_folder())]


def _devices() -> Check:
    """Number, kind and memory of the devices, as a new process sees them."""
    command = [sys.executable, "-c", DEVICES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        told = f"no answer in {PATIENCE} s; another process may hold them; JAX_PLATFORMS=cpu"
        return Check("devices", False, told)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        told = next((line for line in said if "Unknown flag" in line), said[-1] if said else "")
        flags = f"XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}: " * ("flag" in told)
        return Check("devices", False, f"{flags}{told.strip()} (exit code {done.returncode})")
    # Plugins print too.
    found = [json_format.loads(line) for line in done.stdout.splitlines() if line[:2] == '["']
    kind, memory = found[0]
    return Check("devices", True, f"{len(found)} x {kind}, {memory / 2**30:.0f} GiB of memory")


def _start() -> Check:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import jaxdl.cli"], check=True)
    seconds = time.perf_counter() - start
    # The time is told, not judged: a cold disk or a busy machine is no fault of the installation.
    return Check("import jaxdl", True, f"{seconds:.2f} s in a new process (aim {START_SECONDS})")


def _writable(name: str, folder: Path) -> Check:
    """Whether files can be made in `folder`, or where it would be made, and how much room is."""
    here = folder.absolute()
    # os.path.exists, since Path's raises where a parent may not be read.
    there = next(place for place in (here, *here.parents) if os.path.exists(place))
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            free = shutil.disk_usage(there).free / 1e9
    except OSError as error:
        remedy = "--run-dir" if name == "runs" else "$JAXDL_DATA"
        return Check(f"write {name}", False, f"{there}: {error.strerror}; choose with {remedy}")
    return Check(f"write {name}", True, f"{folder}, {free:,.0f} GB free")


def _checkpoints(run: Path) -> list[Check]:
    records.read_passport(run)
    saved = Checkpoints(run / records.CHECKPOINTS)
    steps = saved.folders()
    if not steps:
        return [Check("checkpoints", False, "there is none yet")]
    damages = {step: saved.damage(step) for step in steps}
    return [
        Check(f"checkpoint {step}", not told, told or "intact") for step, told in damages.items()
    ]
