"""What to do when a metric no longer improves: stop, or lower the learning rate.

Both read the run's records, so a resumed run counts on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.core.hook import Stop
from jaxdl.core.task import Metric
from jaxdl.optim import reduce_rates


@dataclass(frozen=True)
class EarlyStop:
    """Ends the run at the `patience`-th evaluation in a row that is not better by more than
    `min_delta`.

    `metric` is e.g. `valid/loss` with its `mode`; empty means the task's primary. The best
    checkpoint is what the run then reports. Declare it after `Evaluate`.
    """

    patience: int = 5
    min_delta: float = 0.0
    metric: str = ""
    mode: str = ""

    def __post_init__(self):
        """Refuses a plateau that never comes."""
        _check(self)

    def open(self, program: Any, run: Any) -> PlateauHook:
        """The hook."""
        return _Stop(self, program, run)


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Multiplies the learning rate by `factor` after `patience` evaluations in a row without
    improvement."""

    factor: float = 0.1
    patience: int = 5
    min_delta: float = 0.0
    metric: str = ""
    mode: str = ""

    def __post_init__(self):
        """Refuses a factor that does not lower the rate."""
        if not 0 < self.factor < 1:
            raise InputError(f"factor={self.factor} must lie between 0 and 1.")
        _check(self)

    def open(self, program: Any, run: Any) -> PlateauHook:
        """The hook."""
        return _Reduce(self, program, run)


class PlateauHook:
    """Calls `act` at each update whose evaluation ends a plateau."""

    def __init__(self, config: Any, program: Any, run: Any):
        task = program.experiment.task
        self.metric = config.metric or task.primary
        self._mode = config.mode or task.mode
        self._config, self._run = config, run

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Metric]) -> Any | None:
        """Looks when this update was evaluated."""
        history = self._run.history(self.metric)
        if not history or history[-1][0] != step:
            return None
        values = [value for _, value in history]
        ends = plateaus(values, self._config.patience, self._config.min_delta, self._mode)
        return self.act(state) if ends and ends[-1] == len(values) - 1 else None

    def act(self, state: Any) -> Any | None:
        """What the plateau leads to."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to do."""


class _Stop(PlateauHook):
    def snapshot(self) -> dict[str, Any]:
        """Nothing: the records tell."""
        return {}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Stops at once what was killed after it had stopped and before it could say so."""
        self(self._run.saved, None, {})

    def act(self, state: Any) -> None:
        raise Stop(f"{self.metric} has not improved in {self._config.patience} evaluations")


class _Reduce(PlateauHook):
    def act(self, state: Any) -> Any:
        return state.replace(opt=reduce_rates(state.opt, self._config.factor))


def _check(config: EarlyStop | ReduceOnPlateau) -> None:
    if config.patience < 1 or not 0 <= config.min_delta < math.inf:
        raise InputError(f"{config}: patience must be at least 1, min_delta at least 0.")
    if config.mode not in ("", "max", "min"):
        raise InputError(f"mode={config.mode!r} must be 'max', 'min' or empty, for the task's.")


def plateaus(values: Sequence[float], patience: int, min_delta: float, mode: str) -> list[int]:
    """Indices at which `patience` values in a row have failed to beat the best by more than
    `min_delta`.

    The count starts again after an improvement and after each such index; NaN is none.
    """
    sign, best, waited, found = (1 if mode == "max" else -1), None, 0, []
    for i, value in enumerate(values):
        first = best is None and not math.isnan(value)
        if first or (best is not None and sign * value > sign * best + min_delta):
            best, waited = value, 0
            continue
        waited += 1
        if waited == patience:
            found.append(i)
            waited = 0
    return found
