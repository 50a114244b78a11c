"""Evaluation every so many updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.core.hook import Run
from jaxdl.core.task import Metric
from jaxdl.train.evaluate import evaluate, evaluation_batches


@dataclass(frozen=True)
class Evaluate:
    """Writes the task's metrics on `split` every `every` updates."""

    every: int
    split: str = "valid"

    def __post_init__(self):
        """Refuses a cadence that never comes."""
        if self.every < 1:
            raise InputError(f"every={self.every} must be at least 1.")

    def open(self, program: Any, run: Run) -> EvaluateHook:
        """The hook."""
        return EvaluateHook(self, program, run)


class EvaluateHook:
    """See `Evaluate`."""

    def __init__(self, config: Evaluate, program: Any, run: Run):
        self._config, self._program, self._run = config, program, run
        self._batches: Any = None

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Metric]) -> None:
        """Evaluates when it is time."""
        if step % self._config.every == 0:
            split = self._config.split
            self._batches = self._batches or evaluation_batches(self._program, split)
            found = evaluate(self._program, state, split, batches=self._batches)
            self._run.write(step, split, found)

    def close(self) -> None:
        """Nothing to do."""
