"""One run of a study, as far as its run directory tells."""

from __future__ import annotations

import fcntl
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxdl.core.change import diff
from jaxdl.core.codec import load
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.nodes import at
from jaxdl.core.records import METRICS, PASSPORT, read_passport, read_result

TAIL = 1 << 14
"""Bytes at the end of metrics.jsonl that tell how far a run is."""


@dataclass
class Cell:
    """One variant with one seed."""

    variant: str
    seed: int
    run: Path
    steps: int
    primary: str
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    seconds: float = math.nan
    """What the finished run took to train, all its sittings together."""
    value: float = math.nan
    """Its primary metric."""
    error: str = ""
    words: tuple[str, ...] = field(default=(), repr=False)
    """The last lines it wrote, where it failed."""
    tries: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.variant} seed {self.seed}"

    def look(self, exp: Experiment) -> None:
        """Finds out whether the run is finished already.

        Raises: InputError where the directory holds a run of other steps or hooks, which its name
        does not tell apart and which cannot be compared.
        """
        if not (self.run / PASSPORT).exists():
            return
        with at(str(self.run)):
            before = load(read_passport(self.run).experiment)
        if changes := diff(before, exp):
            told = "; ".join(f"{path} {a!r}, not {b!r}" for path, (a, b) in changes.items())
            raise InputError(
                f"{self.run} holds a run with {told}, which would not compare; choose another "
                "--run-dir, or set the same."
            )
        self.settle()

    def settle(self) -> bool:
        """Takes its result over; whether there is one of a finished run."""
        result = read_result(self.run)
        if result is None or not result.finished:
            return False
        split, _, name = self.primary.rpartition("/")
        best = result.best or {}
        self.value = result.metrics.get(split, {}).get(name, best.get("value", math.nan))
        self.state, self.seconds, self.error, self.words = "done", result.seconds, "", ()
        return True

    def busy(self) -> bool:
        """Whether a process trains in it: one started by hand, or left by an ablation that was
        killed and saving still."""
        try:
            lock = os.open(self.run, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(lock)

    def progress(self) -> tuple[int, float]:
        """Its last recorded step, and the newest value of its primary metric."""
        split, _, name = self.primary.rpartition("/")
        step, value = 0, math.nan
        for record in _tail(self.run / METRICS):
            step = max(step, record["step"])
            if record["split"] == split and record["values"].get(name) is not None:
                value = record["values"][name]
        return step, value


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last whole records of a file that is being written."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return [json.loads(line) for line in lines[start > 0 : -1]]
