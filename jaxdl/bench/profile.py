"""Where the time of an experiment's training step goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxdl import data
from jaxdl.bench import trace
from jaxdl.bench.feed import feed
from jaxdl.core.flops import flops
from jaxdl.core.task import Batch
from jaxdl.train import Program, training_batches

WARMUP = 2
FED = 4
"""Steps with their input per step that is traced."""
MEMORY = ("argument", "output", "alias", "temp", "generated_code")


@dataclass(frozen=True)
class Row:
    """A share of the step: milliseconds per step, and FLOPs per step where they are counted."""

    name: str
    ms: float
    flops: int = 0
    module: str = ""
    phase: str = ""


@dataclass(frozen=True)
class Profile:
    """What `profile` found. Operations on several threads or devices are added up; shares are 0
    to 1."""

    lower_s: float
    """Tracing the Python code and lowering it."""
    compile_s: float
    """XLA's work after that; short where a compilation cache has the program."""
    first_batch_s: float
    step_ms: float
    """Wall time per step on one batch that is there already."""
    fed_step_ms: float
    """The same with its input: on batch after batch as the run loads and prefetches them."""
    input_wait_share: float
    """Part of `fed_step_ms` in which the step waits for its batch."""
    device_idle_share: float
    """Part of the traced time, with input, in which no operation of the compiled program ran."""
    compile_share: float
    """Part that lowering and compiling are of a whole run of the experiment's steps."""
    flops: int
    """Of a step: matrix products and convolutions, forward and backward."""
    memory_mb: dict[str, float]
    """Of the compiled step by kind; `temp` is what it needs besides its arguments and results."""
    phases: list[Row]
    modules: list[Row]
    lines: list[Row]
    kinds: list[Row]
    ops: list[Row]
    """Slowest first, with the module each belongs to."""


def profile(program: Program, folder: Path, steps: int = 5) -> Profile:
    """Runs a few steps, `steps` of them traced into `folder`, and reads the trace.

    Raises: InputError where the platform's trace names no operations.
    """
    get = training_batches(program)
    batch, first_batch_s = _timed(lambda: get(0))
    lowered, lower_s = _timed(lambda: program.step.lower(program.abstract, program.batch))
    compiled, compile_s = _timed(lowered.compile)
    runner = _Runner(program, compiled)
    for _ in range(WARMUP):
        runner.finished(batch)
    _, resident = _timed(lambda: [*map(runner, [batch] * steps), runner.finish()])
    with closing(data.prefetch(get)) as ahead:
        fed = feed(runner.finished, ahead, FED * steps)
        with _tracing(folder):
            traced = feed(runner, ahead, steps, finish=runner.finish)
    events, sources = trace.read_events(folder), trace.sources(compiled.as_text())
    trace.label(folder, sources)
    counts = flops(jax.make_jaxpr(program.step)(program.abstract, program.batch))
    start_s, fed_s = lower_s + compile_s, fed.seconds / FED / steps
    return Profile(
        lower_s=lower_s,
        compile_s=compile_s,
        first_batch_s=first_batch_s,
        step_ms=1e3 * resident / steps,
        fed_step_ms=1e3 * fed_s,
        input_wait_share=fed.waiting,
        device_idle_share=max(0.0, 1 - trace.busy(events) / 1e6 / traced.seconds),
        compile_share=start_s / (start_s + fed_s * program.experiment.steps),
        flops=counts.total(),
        memory_mb=_memory(compiled.memory_analysis()),
        **_tables(events, sources, counts, steps),
    )


class _Runner:
    """Runs the compiled step on one batch after the other."""

    def __init__(self, program: Program, compiled: Any):
        self._program, self._compiled, self._state = program, compiled, program.init()

    def __call__(self, batch: Batch) -> None:
        """Starts an update; the device may still be at it afterwards."""
        self._state, metrics = self._compiled(self._state, batch)
        self._program.settle(metrics)

    def finish(self) -> None:
        """Waits for the device."""
        jax.block_until_ready(self._state)

    def finished(self, batch: Batch) -> None:
        """One update from start to end."""
        self(batch)
        self.finish()


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = act()
    return result, time.perf_counter() - start


def _tracing(folder: Path) -> Any:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return jax.profiler.trace(str(folder), create_perfetto_trace=True, profiler_options=options)


def _tables(
    events: list[trace.Event], sources: dict[str, trace.Source], counts: Counter[str], steps: int
) -> dict[str, list[Row]]:
    """The time per step by phase, module, line, kind and operation."""
    times = {op: us / steps / 1e3 for op, us in trace.self_times(events).items()}
    by_module, by_phase = Counter(), Counter()
    for stack, count in counts.items():
        by_module[trace.module_of(stack)] += count
        by_phase[trace.phase_of(stack)] += count
    unknown = trace.Source("", trace.UNNAMED, "")
    found = {op: sources.get(op, unknown) for op in times}

    def rows(field: str, counted: Counter[str]) -> list[Row]:
        keys = {op: getattr(source, field) for op, source in found.items()}
        return [Row(k, ms, counted[k]) for k, ms in trace.grouped(times, keys).items()]

    slowest = sorted(times, key=times.__getitem__, reverse=True)
    return {
        "phases": rows("phase", by_phase),
        "modules": rows("module", by_module),
        "lines": rows("line", Counter()),
        "kinds": rows("kind", Counter()),
        "ops": [
            Row(op, times[op], module=found[op].module, phase=found[op].phase) for op in slowest
        ],
    }


def _memory(stats: object) -> dict[str, float]:
    """Megabytes by kind; empty where the platform does not tell."""
    sizes = {name: getattr(stats, f"{name}_size_in_bytes", None) for name in MEMORY}
    return {name: size / 1e6 for name, size in sizes.items() if size is not None}
