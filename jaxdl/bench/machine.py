"""Where and when a measurement was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import jaxdl


def describe(packages: Sequence[str]) -> dict[str, Any]:
    """CPU model, cores, load average over a minute, date (UTC), and versions of what is there."""
    versions = {"jaxdl": jaxdl.__version__, "python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line for line in lines if "model name" in line).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
