"""Training metrics, written every so many updates."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.core.hook import Stop
from jaxdl.core.records import as_text, from_text
from jaxdl.core.task import Metric
from jaxdl.metrics import compute, reduce
from jaxdl.train.memory import host_memory_mb
from jaxdl.train.packed import Layout, Packed, Rows

log = logging.getLogger("jaxdl")


@dataclass(frozen=True)
class Log:
    """Writes the metrics of the last `every` updates, merged, the rate of training, and the
    memory that this process holds.

    A record is written one interval late, so that nothing waits for the device. The run ends when
    whole intervals of together `give_up` updates have had no finite gradient.
    """

    every: int = 50
    give_up: int = 100

    def __post_init__(self):
        """Refuses a cadence that never comes."""
        if self.every < 1 or self.give_up < 1:
            raise InputError(f"every={self.every} and give_up={self.give_up} must be at least 1.")

    def open(self, program: Any, run: Any) -> LogHook:
        """The hook."""
        return LogHook(self, program, run)


class LogHook:
    """See `Log`."""

    def __init__(self, config: Log, program: Any, run: Any):
        self._config, self._program, self._run = config, program, run
        self._lost = 0  # updates in a row without a finite gradient
        self._examples = next(iter(program.batch.values())).shape[0]
        self._since = _Interval()
        self._ready: _Interval | None = None
        self._clock: tuple[int, float] | None = None

    def __call__(self, step: int, state: Any, metrics: Packed) -> None:
        """Notes the metrics; writes those of the interval before."""
        self._since.add(step, metrics)
        if self._clock is None:  # the first update's time is compilation
            self._clock = step, time.perf_counter()
        if step % self._config.every == 0:
            ready, self._ready = self._ready, self._closed(step)
            if ready:
                self._judge(ready.step, self._write(ready))

    def _judge(self, step: int, skipped: float) -> None:
        """Ends a run that learns nothing."""
        self._lost = self._lost + self._config.every if skipped == 1 else 0
        if self._lost >= self._config.give_up:
            raise Stop(
                f"no finite gradient in the {self._lost} updates up to step {step}; look for "
                "NaN in the data and labels out of range, lower optim.peak_lr, or set optim.clip",
                status="failed",
                code=1,
            )

    def close(self) -> None:
        """Writes what is left."""
        for interval in (self._ready, self._closed(self._since.step)):
            if interval and interval.rows.arrays():
                self._write(interval)
        self._ready = None

    def snapshot(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run writes the very same records."""
        ready = self._ready and self._ready.snapshot()
        since = self._since.snapshot()
        return {"ready": ready, "since": since, "lost": self._lost, "names": self._names}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a snapshot; not with the metrics of code that has changed since."""
        layout, self._lost = self._layout, saved["lost"]
        if saved.get("names") != self._names:
            log.warning("the task's metrics are others than before; the interval is left out.")
            return
        self._since = _Interval.of(saved["since"], layout)
        if saved["since"]["rows"]:  # an interval that a crash or the end of the run cut goes on
            self._run.forget(self._since.step, "train", "perf")
        # A run killed after the checkpoint may have written this record already.
        written = {record.step for record in self._run.records if record.split == "train"}
        if saved["ready"] and saved["ready"]["step"] not in written:
            self._ready = _Interval.of(saved["ready"], layout)

    @cached_property
    def _names(self) -> list[str]:
        return self._layout.names()

    @cached_property
    def _layout(self) -> Layout:
        _, metrics = self._program.step.eval_shape(self._program.abstract, self._program.batch)
        return metrics.layout

    def _closed(self, step: int) -> _Interval:
        """The interval that ends here, with its rate; a new one begins."""
        closed, self._since = self._since, _Interval()
        if self._clock:
            (then, start), now = self._clock, time.perf_counter()
            self._clock = step, now
            if step > then:
                seconds = (now - start) / (step - then)
                closed.perf = {
                    "step_ms": 1e3 * seconds,
                    "examples_per_second": self._examples / seconds,
                    "host_mb": host_memory_mb(),
                }
        return closed

    def _write(self, interval: _Interval) -> float:
        """Writes the records of an interval; the share of its updates that was left out."""
        values = compute(interval.merged())
        self._run.write(interval.step, "train", values)
        if interval.perf:
            self._run.write(interval.step, "perf", interval.perf)
        skipped = values.get("skipped", 0.0)
        if skipped:
            log.warning(
                "up to step %d %.0f%% of the updates were left out: their gradients were not "
                "finite.",
                interval.step,
                100 * skipped,
            )
        return skipped


class _Interval:
    """The metrics of consecutive updates."""

    def __init__(self, step: int = 0, rows: Rows | None = None):
        self.step, self.rows = step, rows or Rows()
        self.perf: dict[str, float] = {}

    def add(self, step: int, metrics: Packed) -> None:
        self.step = step
        self.rows.add(metrics)

    def merged(self) -> Mapping[str, Metric]:
        return {name: reduce(many) for name, many in self.rows.states().items()}

    def snapshot(self) -> dict[str, Any]:
        """Every update's states: sums of sums would round differently from those of one sitting."""
        return {"step": self.step, "rows": [as_text(x) for x in self.rows.arrays()]}

    @classmethod
    def of(cls, saved: Mapping[str, Any], layout: Layout) -> _Interval:
        return cls(saved["step"], Rows(layout, [from_text(x) for x in saved["rows"]]))
