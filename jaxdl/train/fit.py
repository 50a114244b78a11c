"""From an experiment and a directory to a finished run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxdl import data
from jaxdl.core.experiment import Experiment
from jaxdl.core.hook import Stop
from jaxdl.core.records import Result
from jaxdl.train.build import build
from jaxdl.train.evaluate import evaluate
from jaxdl.train.hooks.check import check_hooks, check_metrics
from jaxdl.train.loop import train
from jaxdl.train.passport import issue
from jaxdl.train.program import Program
from jaxdl.train.rundir import RunDir, check_same, open_run
from jaxdl.train.signals import signals
from jaxdl.train.state import State

log = logging.getLogger("jaxdl")


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
) -> Fitted:
    """Trains `exp` in `directory`, or goes on where it was left; a finished run is only reported.

    `watch` gives further hooks, called last. The result holds the metrics of the best checkpoint
    by the task's primary metric (of the last state where there is none) on every held-out split.

    Raises:
        InputError: the experiment cannot run, or the directory cannot hold it; nothing is touched
        then.
    """
    check_hooks(exp)
    passport = issue(exp, source, devices)
    ended = check_same(directory, passport)
    if ended and ended.finished and (ended.status == "stopped" or ended.steps >= exp.steps):
        return Fitted(ended)
    program = build(exp, devices)
    check_metrics(program)
    with closing(
        open_run(directory, passport, primary=exp.task.primary, mode=exp.task.mode)
    ) as run:
        try:
            state, stop = _train(program, run, watch)
            return _conclude(program, run, state, stop)
        except BaseException:
            if run.begun:
                with suppress(OSError):  # a full disk is what may have failed
                    run.finish(_result(program, run, "failed", run.saved or 0))
            raise


def _train(program: Program, run: RunDir, watch: Callable) -> tuple[State, Stop | None]:
    exp = program.experiment
    with ExitStack() as stack:
        interrupt = stack.enter_context(signals())
        state = run.checkpoints.restore(program.abstract, repair=True)
        start = 0 if state is None else int(state.step)
        state = program.init() if state is None else state
        run.begin(start)
        hooks = [stack.enter_context(closing(config.open(program, run))) for config in exp.hooks]
        run.hooks = {
            f"{i} {type(h).__name__}": h for i, h in enumerate(hooks) if hasattr(h, "snapshot")
        }
        stop = run.resume(start) if start else None
        if start:
            log.info("resumed at step %d of %d.", start, exp.steps)
        hooks += [stack.enter_context(closing(hook)) for hook in watch(program, run)]
        batches = stack.enter_context(closing(data.prefetch(_batches(program))))
        if not stop:
            state, stop = train(program.step, state, batches, exp.steps, [*hooks, interrupt])
        step = int(state.step)
        if not stop and int(state.skipped) == step:
            stop = Stop("no update had a finite gradient", status="failed", code=1)
        if run.saved != step:
            run.save(step, state)
        if stop and stop.status == "preempted":
            run.mute()
    return state, stop


def _conclude(program: Program, run: RunDir, state: State, stop: Stop | None) -> Fitted:
    """Evaluates what is finished and writes result.json."""
    step = int(state.step)
    run.checkpoints.wait()
    status, code = (stop.status, stop.code) if stop else ("done", 0)
    if stop:
        log.warning("%s.", stop)
    if status in ("preempted", "failed"):
        result = _result(program, run, status, step)
        run.finish(result)
        return Fitted(result, code)
    best = run.checkpoints.best()
    if best and best[0] != step:
        if damage := run.checkpoints.damage(best[0]):
            log.warning(
                "the best checkpoint, %d, is damaged (%s); taking the last.", best[0], damage
            )
        else:
            state = run.checkpoints.load(best[0], program.abstract)
    config = program.experiment.data
    splits = [name for name in ("valid", "test") if getattr(config, name)() is not None]
    metrics = {split: evaluate(program, state, split) for split in splits}
    result = _result(program, run, status, step, metrics)
    run.finish(result)
    return Fitted(result, code, program, state)


def _batches(program: Program) -> Callable:
    exp = program.experiment
    return data.batches(
        exp.data.train(),
        batch=exp.data.batch,
        seed=exp.seed,
        plan=exp.data.plan("train"),
        transform=exp.data.transform("train"),
        mesh=program.mesh,
        spec=next(iter(program.batch.values())).sharding.spec,
    )


def _result(program: Program, run: RunDir, status: str, step: int, metrics: Any = None) -> Result:
    best = run.checkpoints.best()
    return Result(
        status=status,
        steps=step,
        seconds=round(run.seconds, 3),
        primary=program.experiment.task.primary,
        metrics=metrics or {},
        best=best and {"step": best[0], "value": best[1]},
    )
