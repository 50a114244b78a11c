"""Where the time of an experiment's training step goes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxdl.bench import trace
from jaxdl.core.flops import flops
from jaxdl.train import Program, State, training_batches

WARMUP = 2
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
    """What `profile` found. Operations on several threads or devices are added up."""

    compile_s: float
    step_ms: float
    """Wall time per step, without the profiler."""
    first_batch_s: float
    device_share: float
    """Part of the traced time in which the compiled program computed; the rest waits for the
    host."""
    flops: int
    """Of a step: matrix products and convolutions, forward and backward."""
    memory_mb: dict[str, float]
    """Of the compiled step by kind; `temp` is what it needs besides its arguments and results."""
    phases: list[Row]
    modules: list[Row]
    kinds: list[Row]
    ops: list[Row]
    """Slowest first, with the module each belongs to."""


def profile(program: Program, folder: Path, steps: int = 5) -> Profile:
    """Runs a few steps on one batch, `steps` of them traced into `folder`, and reads the trace.

    Raises: InputError where the platform's trace names no operations.
    """
    start = time.perf_counter()
    batch = training_batches(program)(0)
    first_batch = time.perf_counter() - start
    start = time.perf_counter()
    compiled = program.step.lower(program.abstract, program.batch).compile()
    compile_s = time.perf_counter() - start

    def run(state: State, count: int) -> State:
        for _ in range(count):
            state, metrics = compiled(state, batch)
            program.settle(metrics)
        return jax.block_until_ready(state)

    state = run(program.init(), WARMUP)
    start = time.perf_counter()
    state = run(state, steps)
    step_ms = 1e3 * (time.perf_counter() - start) / steps
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(str(folder), create_perfetto_trace=True, profiler_options=options):
        start = time.perf_counter()
        run(state, steps)
        traced_us = 1e6 * (time.perf_counter() - start)
    events = trace.read_events(folder)
    counts = flops(jax.make_jaxpr(program.step)(program.abstract, program.batch))
    return Profile(
        compile_s=compile_s,
        step_ms=step_ms,
        first_batch_s=first_batch,
        device_share=min(1.0, trace.busy(events) / traced_us),
        flops=counts.total(),
        memory_mb=_memory(compiled.memory_analysis()),
        **_tables(events, trace.sources(compiled.as_text()), counts, steps),
    )


def _tables(
    events: list[trace.Event], sources: dict[str, trace.Source], counts: Counter[str], steps: int
) -> dict[str, list[Row]]:
    """The time per step by phase, module, kind and operation."""
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
        "kinds": rows("kind", Counter()),
        "ops": [
            Row(op, times[op], module=found[op].module, phase=found[op].phase) for op in slowest
        ],
    }


def _memory(stats: object) -> dict[str, float]:
    """Megabytes by kind; empty where the platform does not tell."""
    sizes = {name: getattr(stats, f"{name}_size_in_bytes", None) for name in MEMORY}
    return {name: size / 1e6 for name, size in sizes.items() if size is not None}
