"""`jaxdl doctor`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated

import rich
import tyro
from rich.table import Table

from jaxdl.cli import screen
from jaxdl.core import records
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.passport import PACKAGES

START_SECONDS = 0.3
"""What `import jaxdl` should stay below."""
Run = Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")]
Check = tuple[str, bool, str]


def doctor(run: Run = None, json: screen.Flag = False) -> int:
    """Check the installation, or the integrity of every checkpoint of a run.

    Example: jaxdl doctor runs/quickstart/base-1a2b3c4d

    Exit code 1 if a check fails.

    Args:
        run: run directory.
        json: print one JSON object per check.
    """
    checks = _installation() if run is None else _checkpoints(run)
    if json:
        for name, fine, told in checks:
            screen.print_json({"check": name, "ok": fine, "told": told})
    else:
        shown = Table("check", "", "", box=None, pad_edge=False)
        for name, fine, told in checks:
            shown.add_row(name, "[green]ok[/green]" if fine else "[red]FAIL[/red]", told)
        rich.print(shown)
    return 0 if all(fine for _, fine, _ in checks) else 1


def _installation() -> list[Check]:
    import jax

    checks = [(f"version {name}", *_version(name)) for name in ("jaxdl", *PACKAGES)]
    devices = jax.devices()
    checks.append(("devices", True, f"{len(devices)} x {devices[0].device_kind}"))
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import jaxdl.cli"], check=True)
    seconds = time.perf_counter() - start
    # The time is told, not judged: a cold disk or a busy machine is no fault of the installation.
    checks.append(("import jaxdl", True, f"{seconds:.2f} s in a new process (aim {START_SECONDS})"))
    try:
        with tempfile.NamedTemporaryFile(dir="."):
            checks.append(("write here", True, str(Path.cwd())))
    except OSError as error:
        checks.append(("write here", False, f"{error.strerror}: pass --run-dir"))
    return checks


def _version(name: str) -> tuple[bool, str]:
    try:
        return True, metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, "missing; reinstall with `make quickstart` or `pip install -e .`"


def _checkpoints(run: Path) -> list[Check]:
    records.read_passport(run)
    saved = Checkpoints(run / records.CHECKPOINTS)
    steps = saved.folders()
    if not steps:
        return [("checkpoints", False, "there is none yet")]
    damages = {step: saved.damage(step) for step in steps}
    return [(f"checkpoint {step}", not told, told or "intact") for step, told in damages.items()]
