"""Runs the cells of a plan as child processes, whatever happens to them on the way."""

from __future__ import annotations

import json
import math
import signal
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.core.records import SCHEMA, finite, write_json
from jaxdl.search.cells import Cell
from jaxdl.search.jobs import Pool
from jaxdl.search.plan import OVERHEAD, Plan

STUDY = "ablation.json"
INTERRUPTED = (75, 130)
"""Exit codes of a run that saved because it got a signal."""
TRIES = 2
"""Times a run is started that signals end."""
LAST_WORDS = 20
"""Lines that are kept of a run that failed."""
TICK = 0.05

Start = Callable[[Cell, int], subprocess.Popen]
"""Starts the training of a cell in a slot of the pool."""


@dataclass
class Ablation:
    """A plan being carried out."""

    plan: Plan
    start: Start
    pool: Pool
    budget: float = math.inf
    """Seconds after which nothing should run."""
    spent: bool = False
    """Whether a cell was left out because it did not fit the budget."""
    running: dict[int, Cell] = field(default_factory=dict)
    """By slot."""
    _began: dict[int, float] = field(default_factory=dict)
    _overheads: list[float] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    @property
    def overhead(self) -> float:
        """Seconds that a run takes beside its training, as seen so far."""
        return statistics.median(self._overheads) if self._overheads else OVERHEAD

    @property
    def left(self) -> float | None:
        """Seconds until all is done, so far as can be told."""
        waiting = self.plan.left(self.pool.size, self.overhead)
        now = time.monotonic()
        for slot, cell in self.running.items():
            whole = self.plan.estimate(cell, self.overhead)
            if whole is None or waiting is None:
                return None
            waiting += max(0.0, whole - (now - self._began[slot])) / self.pool.size
        return waiting

    def run(self, watch: Callable[[Cell | None], None] = lambda cell: None) -> None:
        """Trains what is not finished; `watch` is told of each cell that has ended, and called
        with None in between.

        It returns when all is done, nothing more fits the budget, or the pool was asked to stop.
        """
        self.save()
        while True:
            for slot, code in self.pool.ended():
                watch(self._end(slot, code))
            self._fill()
            if not self.pool and (self.spent or self.pool.received or not self._waiting()):
                break
            watch(None)
            time.sleep(TICK)

    def save(self) -> None:
        """Writes what is known to ablation.json, for other programs."""
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.plan.folder / STUDY, finite(self._told()))

    def _waiting(self) -> list[Cell]:
        return self.plan.of("waiting")

    def _fill(self) -> None:
        """Starts what comes next in every free slot."""
        for slot in self.pool.free():
            waiting = self._waiting()
            if not waiting or self.pool.received or self.spent:
                return
            cell = next((cell for cell in waiting if not cell.busy()), None)
            self.spent = not self._fits(cell or waiting[0])
            if cell is None or self.spent:
                return
            cell.state, cell.tries = "running", cell.tries + 1
            self.running[slot], self._began[slot] = cell, time.monotonic()
            self.save()
            self.pool.put(slot, self.start(cell, slot))

    def _fits(self, cell: Cell) -> bool:
        used = time.monotonic() - self._start
        return used + (self.plan.estimate(cell, self.overhead) or 0.0) <= self.budget

    def _end(self, slot: int, code: int) -> Cell:
        """What became of the cell in `slot`."""
        cell, wall = self.running.pop(slot), time.monotonic() - self._began.pop(slot)
        interrupted = code < 0 or code in INTERRUPTED
        if self._settled(cell):
            if code == 0 and cell.tries == 1 and cell.seconds < wall:
                self._overheads.append(wall - cell.seconds)
        elif self.pool.received or (interrupted and cell.tries < TRIES):
            cell.state = "waiting"
        else:
            cell.words = _last_words(self.plan.log(cell))
            cell.state, cell.error = "failed", _error(code, cell.words)
        self.save()
        return cell

    def _settled(self, cell: Cell) -> bool:
        with suppress(InputError):  # a damaged result is no result
            return cell.settle()
        return False

    def _told(self) -> dict[str, Any]:
        names = ("variant", "seed", "state", "value", "seconds", "error", "words")
        return {
            "schema": SCHEMA,
            "experiment": self.plan.file,
            "sets": self.plan.sets,
            "variants": {
                name: {path: repr(value) for path, value in edits.items()}
                for name, edits in self.plan.variants.items()
            },
            "seeds": list(self.plan.seeds),
            "primary": self.plan.primary,
            "cells": [
                {"run": str(cell.run)} | {name: getattr(cell, name) for name in names}
                for cell in self.plan.cells
            ],
        }


def was_killed(folder: Path) -> bool:
    """Whether the ablation that was last at work in `folder` had no time to end."""
    with suppress(OSError, ValueError):
        cells = json.loads((folder / STUDY).read_text())["cells"]
        return any(cell["state"] == "running" for cell in cells)
    return False


def _last_words(log: Path) -> tuple[str, ...]:
    with suppress(OSError), log.open(errors="replace") as lines:
        return tuple(line.rstrip() for line in deque(lines, LAST_WORDS))
    return ()


def _error(code: int, words: tuple[str, ...]) -> str:
    """Why a run failed, in one line."""
    how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    said = next((line for line in reversed(words) if line.strip()), "")
    said = said.removeprefix("jaxdl: ").strip()
    return f"{how}: {said}" if said else how
