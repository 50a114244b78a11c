"""What a sweep makes small or large, and where a run says how much it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.records import read_passport, read_records, read_result

MODES = {"max": "maximize", "min": "minimize"}
COSTS = {
    "seconds": "wall time of training",
    "parameters": "size of the model",
    "flops": "of one update",
    "memory_mb": "peak of the devices",
}
"""Objectives that are no metric; less is better."""
RATES = {"perf/step_ms": "min", "perf/examples_per_second": "max"}


@dataclass(frozen=True)
class Objective:
    """A number of a finished run, and which way is better."""

    name: str
    """`valid/accuracy`, `perf/step_ms`, or one of `COSTS`."""
    mode: str

    def measure(self, run: Path) -> float:
        """What `run` reached: of metrics, those of its best checkpoint.

        Raises:
            InputError: the run does not say, or not a number.
        """
        value = self._read(run)
        if value is None or math.isnan(value):
            how = "missing" if value is None else "not a number"
            raise InputError(f"{self.name} is {how} in {run}")
        return float(value)

    def _read(self, run: Path) -> float | None:
        result = read_result(run)
        if self.name in COSTS:
            found = getattr(result, self.name, None)
            return getattr(read_passport(run), self.name, None) if found is None else found
        split, _, metric = self.name.partition("/")
        if result and metric in result.metrics.get(split, {}):
            return result.metrics[split][metric]
        said = [
            r.values[metric] for r in read_records(run) if r.split == split and metric in r.values
        ]
        return said[-1] if said else None


def parse_objectives(text: str, exp: Experiment) -> tuple[Objective, ...]:
    """The objectives that `valid/accuracy,seconds:min` names; empty means the task's primary.

    Raises:
        InputError: a name has no known direction, or comes twice.
    """
    primary = exp.task.primary
    known = {name: "min" for name in COSTS} | RATES | {primary: exp.task.mode}
    found = []
    for part in text.split(",") if text else [primary]:
        name, _, mode = part.strip().partition(":")
        mode = mode or known.get(name, "")
        if "/" not in name and name not in COSTS:
            raise InputError(
                f"objective {name!r} is neither split/metric, like {primary}, nor one of "
                f"{', '.join(COSTS)}."
            )
        if mode not in MODES:
            raise InputError(f"objective {name!r}: say which way is better, {name}:min or :max.")
        found.append(Objective(name, mode))
    if len({objective.name for objective in found}) < len(found):
        raise InputError(f"--objective {text}: a name comes twice; keep one.")
    return tuple(found)


def cadence(exp: Experiment, objective: Objective) -> int:
    """Every how many steps a run writes `objective` down; 0 where it does not."""
    split = objective.name.partition("/")[0]
    logged = [
        hook.every
        for hook in exp.hooks
        if getattr(hook, "split", "train") == split and isinstance(getattr(hook, "every", 0), int)
    ]
    return min((every for every in logged if every > 0), default=0)
