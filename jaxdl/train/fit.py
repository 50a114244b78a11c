"""From an experiment and a directory to a finished run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jaxdl import data, parallel
from jaxdl.core import records
from jaxdl.core.codec import load
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.hook import Stop
from jaxdl.core.records import Passport, Result
from jaxdl.train.batches import training_batches
from jaxdl.train.build import build
from jaxdl.train.check import check_experiment, check_program
from jaxdl.train.evaluate import evaluate
from jaxdl.train.loop import train
from jaxdl.train.memory import peak_memory_mb
from jaxdl.train.passport import cost, issue
from jaxdl.train.program import Program
from jaxdl.train.rundir import RunDir, check_same, open_run
from jaxdl.train.signals import Signals, signals
from jaxdl.train.snapshot import Snapshot, take
from jaxdl.train.state import State

log = logging.getLogger("jaxdl")
NEVER_FINITE = (
    "no update had a finite gradient; look for NaN in the data and labels out of range, or lower "
    "optim.peak_lr"
)


@dataclass(frozen=True)
class Fitted:
    """What `fit` leaves: the result, and what made it unless the run had ended before."""

    result: Result
    code: int = 0
    """Exit code."""
    program: Program | None = None
    state: State | None = None
    """The state that was evaluated."""


def fit(
    exp: Experiment,
    directory: Path,
    *,
    source: str = "",
    watch: Callable[[Program, RunDir], Sequence[Any]] = lambda program, run: (),
    devices: Sequence[jax.Device] | None = None,
    workers: int = 0,
) -> Fitted:
    """Trains `exp` in `directory`, or goes on where it was left; a finished run is only reported.

    `watch` gives further hooks, called last. `workers` processes prepare the training batches (0: a
    thread of this one), which changes no batch. The result holds the metrics of the best checkpoint
    by the task's primary metric (of the last state where there is none) on every held-out split.
    Of several processes each calls `fit`, with one directory that they share; the first writes.

    Raises:
        InputError: the experiment cannot run, or the directory cannot hold it; nothing is touched
        then.
    """
    check_experiment(exp)
    if workers < 0:
        raise InputError(f"workers={workers} must be 0 (read in this process) or more.")
    code = take(source)
    passport = issue(exp, source, devices, code)
    if first := check_same(directory, passport):
        before, ended = load(first.experiment), records.read_result(directory)
        _warn_of_changes(directory, first, passport, before.steps, exp.steps)
        if ended and _nothing_left(exp, ended, before):
            log.info(
                "%s ended before, after %d steps; nothing was trained.", directory, ended.steps
            )
            return Fitted(ended)
    program = build(exp, devices)
    check_program(program)
    kernels = tuple(asdict(choice) for choice in program.kernels)
    passport = replace(passport, kernels=kernels, **cost(program))
    parallel.gathered()  # nobody writes before all have read
    with (
        closing(open_run(directory, passport, exp.task.primary, exp.task.mode)) as run,
        signals() as interrupt,
    ):
        try:
            state, stop = _train(program, run, code, watch, interrupt, workers)
            return _conclude(program, run, state, stop, interrupt)
        except BaseException:
            if run.begun:
                with suppress(OSError):  # a full disk is what may have failed
                    run.finish(_result(program, run, "failed", run.saved or 0))
            raise


def _warn_of_changes(
    directory: Path, first: Passport, now: Passport, steps: int, steps_now: int
) -> None:
    """Says what is not as it was when a run was last trained, though it may go on."""
    code = first.sittings[-1].get("code", first.code) if first.sittings else first.code
    changed = [place for place in now.code if place in code and code[place] != now.code[place]]
    if changed := [place for place in changed if place != "files"] or changed:
        log.warning(
            "the code (%s) has changed since %s was last trained; choose another --run-dir to "
            "start anew.",
            ", ".join(changed),
            directory,
        )
    if steps != steps_now:
        log.warning(
            "%s was trained for steps=%d; with %d its schedule is another from here on.",
            directory,
            steps,
            steps_now,
        )


def _nothing_left(exp: Experiment, ended: Result, before: Experiment) -> bool:
    """Whether the run that ended would not go on: its steps are done, or its own hooks ended it."""
    if ended.status == "stopped":
        return before.hooks == exp.hooks
    return ended.status == "done" and ended.steps >= exp.steps


def _train(
    program: Program,
    run: RunDir,
    code: Snapshot,
    watch: Callable,
    interrupt: Signals,
    workers: int,
) -> tuple[State, Stop | None]:
    exp = program.experiment
    with ExitStack() as stack:
        state = run.checkpoints.restore(program.abstract, repair=True)
        start = 0 if state is None else int(state.step)
        if start > exp.steps:
            raise InputError(
                f"the run is at step {start} already, beyond steps={exp.steps}; set steps to more, "
                "or choose another --run-dir."
            )
        state = program.init() if state is None else state
        run.begin(start)
        if parallel.is_first():
            code.keep(run.path, start)
        hooks = [stack.enter_context(closing(config.open(program, run))) for config in exp.hooks]
        run.hooks = _named([hook for hook in hooks if hasattr(hook, "snapshot")])
        stop = run.resume(start) if start else None
        if start:
            log.info("resumed at step %d of %d.", start, exp.steps)
        hooks += [stack.enter_context(closing(hook)) for hook in watch(program, run)]
        batches = stack.enter_context(closing(data.prefetch(_batches(program, workers, stack))))
        if not stop:
            hooks = [*program.pacing(), *hooks, interrupt]
            state, stop = train(program.step, state, batches, exp.steps, hooks)
        step = int(state.step)
        if not stop and int(state.skipped) == step:
            stop = Stop(NEVER_FINITE, status="failed", code=1)
        if run.saved != step:
            run.save(step, state)
        if stop and stop.status == "preempted":
            run.mute()
    return state, stop


def _conclude(
    program: Program, run: RunDir, state: State, stop: Stop | None, interrupt: Signals
) -> Fitted:
    """Evaluates what is finished and writes result.json."""
    step, metrics = int(state.step), {}
    run.checkpoints.wait()
    if stop is None or stop.status == "stopped":
        state = _best(program, run, state)
        config = program.experiment.data
        splits = [name for name in ("valid", "test") if getattr(config, name)() is not None]
        try:
            for split in splits:
                metrics[split] = evaluate(program, state, split, lambda: interrupt(step, None, {}))
        except Stop as raised:
            stop, metrics = raised, {}
    if stop:
        log.warning("%s.", str(stop).rstrip("."))
    status, code = (stop.status, stop.code) if stop else ("done", 0)
    result = _result(program, run, status, step, metrics)
    run.finish(result)
    return Fitted(result, code, program, state) if result.finished else Fitted(result, code)


def _best(program: Program, run: RunDir, state: State) -> State:
    """The best state by the primary metric; `state`, the last, where there is none."""
    best = run.checkpoints.best_intact()
    if best in (None, int(state.step)):
        return state
    return run.checkpoints.load(best, program.abstract)


def _named(hooks: Sequence[Any]) -> dict[str, Any]:
    """Hooks by type and number among their type, which survive a reordering."""
    kinds = [type(hook).__name__ for hook in hooks]
    return {
        f"{kind} {kinds[:i].count(kind)}": hook
        for i, (kind, hook) in enumerate(zip(kinds, hooks, strict=True))
    }


def _batches(program: Program, workers: int, stack: ExitStack) -> Callable:
    if not workers:
        return training_batches(program)
    exp, sharding = program.experiment, next(iter(program.batch.values())).sharding
    rows = data.local_rows(sharding, exp.data.batch)
    sizes = {"batch": exp.data.batch, "seed": exp.seed, "rows": rows, "count": workers}
    read = stack.enter_context(closing(data.Workers(exp.data, **sizes)))
    return data.placed(read, sharding, exp.data.batch)


def _result(program: Program, run: RunDir, status: str, step: int, metrics: Any = None) -> Result:
    best = run.checkpoints.best()
    return Result(
        status=status,
        steps=step,
        seconds=round(run.seconds, 3),
        primary=program.experiment.task.primary,
        metrics=metrics or {},
        best=best and {"step": best[0], "value": best[1]},
        memory_mb=_memory_mb(run.result),
    )


def _memory_mb(before: Result | None) -> float:
    """The most that was in use, in the sittings `before` too; 10^6 bytes."""
    told = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    peak = max((t / 1e6 for t in told if t), default=peak_memory_mb())
    return round(max(peak, (before and before.memory_mb) or 0.0), 1)
