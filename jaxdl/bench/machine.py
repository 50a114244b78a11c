"""Where and when a measurement was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jaxdl
from jaxdl.core.packages import versions_of


def describe(packages: Sequence[str]) -> dict[str, Any]:
    """CPU model, cores, load average over a minute, date (UTC), and versions of what is there."""
    mine = {"jaxdl": jaxdl.__version__, "python": platform.python_version()}
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": mine | versions_of(packages),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line for line in lines if "model name" in line).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
