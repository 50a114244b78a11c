"""Whether another process of this machine works or stands still."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
LOOK = 0.5
"""Seconds between two looks at a process."""
BUSY = 0.1
"""Share of one core from which on a process works; a progress bar takes less."""
WAITING_FOR_DISK = "D"


class Working:
    """Since when a process has stood still: no thread waits for a disk, it has handed nothing to
    one, and together they took less than `BUSY` of a core.

    Where the system does not tell (it has no /proc), every process seems to stand still.
    """

    def __init__(self, pid: int):
        self._folder = PROC / str(pid)
        self._looked = self._worked = time.monotonic()
        self._seconds, self._bytes = self._used()

    def still(self) -> float:
        """Seconds for which it has done nothing."""
        now = time.monotonic()
        if now - self._looked >= LOOK:
            seconds, written = self._used()
            busy = seconds - self._seconds >= BUSY * (now - self._looked)
            if busy or written > self._bytes or self._waits_for_disk():
                self._worked = now
            self._looked, self._seconds, self._bytes = now, seconds, written
        return now - self._worked

    def _used(self) -> tuple[float, int]:
        """Seconds of CPU, and bytes written to disks, of its life."""
        seconds, written = 0.0, 0
        with suppress(OSError):
            seconds = sum(map(int, _fields(self._folder / "stat")[11:13])) / TICKS
        with suppress(OSError):  # not every system lets it be read
            lines = (self._folder / "io").read_text().splitlines()
            written = sum(int(x.split()[1]) for x in lines if x.startswith("write_bytes"))
        return seconds, written

    def _waits_for_disk(self) -> bool:
        try:
            threads = list((self._folder / "task").iterdir())
        except OSError:
            return False
        return any(_state(thread) == WAITING_FOR_DISK for thread in threads)


def _state(thread: Path) -> str:
    try:
        return _fields(thread / "stat")[0]
    except OSError:
        return ""  # it has ended


def _fields(stat: Path) -> list[str]:
    """What proc(5) lists, from the state on; the name before it may contain anything."""
    return stat.read_text().rpartition(")")[2].split()
