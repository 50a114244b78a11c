"""Checkpoints every so many updates, and whenever the primary metric improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.core.task import Metric


@dataclass(frozen=True)
class Save:
    """Saves every `every` updates and at each value among the `best` best so far; keeps those and
    the `last` newest.

    Declare it after `Evaluate`, whose value of the same update it judges by.
    """

    every: int
    last: int = 2
    best: int = 1

    def __post_init__(self):
        """Refuses to keep nothing."""
        if self.every < 1 or self.last < 1 or self.best < 0:
            raise InputError(f"{self}: every and last must be at least 1, best at least 0.")

    def open(self, program: Any, run: Any) -> SaveHook:
        """The hook."""
        run.checkpoints.last, run.checkpoints.keep_best = self.last, self.best
        return SaveHook(self.every, program.experiment.task, run)


class SaveHook:
    """See `Save`."""

    def __init__(self, every: int, task: Any, run: Any):
        self._every, self._run = every, run
        self._primary, self._sign = task.primary, 1 if task.mode == "max" else -1

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Metric]) -> None:
        """Saves when it is time, or when this update's evaluation is among the best so far."""
        evaluated = self._run.newest == step  # mostly not, and then nothing else costs time
        if step % self._every == 0 or (evaluated and self._among_best(step)):
            self._run.save(step, state)

    def close(self) -> None:
        """Nothing to do: the run waits for its checkpoints."""

    def _among_best(self, step: int) -> bool:
        history = self._run.history(self._primary)
        if not history or history[-1][0] != step:
            return False
        value = self._sign * history[-1][1]
        better = [v for _, v in history[:-1] if self._sign * v >= value]
        return not math.isnan(value) and len(better) < self._run.checkpoints.keep_best
