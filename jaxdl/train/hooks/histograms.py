"""Histograms of the parameters in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxdl import parallel
from jaxdl.core import tree
from jaxdl.core.errors import InputError
from jaxdl.core.task import Metric


@dataclass(frozen=True)
class Histograms:
    """Writes one histogram per parameter whose path matches `params`, every `every` updates."""

    every: int
    params: str = "*"

    def __post_init__(self):
        """Refuses a cadence that never comes."""
        if self.every < 1:
            raise InputError(f"every={self.every} must be at least 1.")

    def open(self, program: Any, run: Any) -> HistogramsHook:
        """The hook."""
        return HistogramsHook(self, run)


class HistogramsHook:
    """See `Histograms`."""

    def __init__(self, config: Histograms, run: Any):
        self._config, self._run = config, run

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Metric]) -> None:
        """Writes when it is time."""
        if step % self._config.every == 0:
            chosen = tree.flatten(tree.select(state.params, self._config.params))
            for path, value in parallel.fetched(chosen).items():
                self._run.histogram(step, path, value)

    def close(self) -> None:
        """Nothing to do."""
