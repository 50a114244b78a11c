"""The memory of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATM = Path("/proc/self/statm")
PAGE = resource.getpagesize()


def host_memory_mb() -> float:
    """What this process holds in memory now, in 10^6 bytes; where there is no /proc, its peak."""
    try:
        return int(STATM.read_bytes().split()[1]) * PAGE / 1e6
    except OSError:
        return peak_memory_mb()


def peak_memory_mb() -> float:
    """The most that this process has held, in 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
