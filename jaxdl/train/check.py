"""Whether an experiment's parts can do what they are asked, seen before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxdl.core import tree
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.experiment import Experiment
from jaxdl.optim import rates
from jaxdl.train.hooks.evaluate import Evaluate
from jaxdl.train.hooks.histograms import Histograms
from jaxdl.train.hooks.log import Log
from jaxdl.train.hooks.plateau import EarlyStop, ReduceOnPlateau
from jaxdl.train.hooks.save import Save
from jaxdl.train.hooks.track_mlflow import MLflow
from jaxdl.train.hooks.track_wandb import WandB
from jaxdl.train.program import Program

TRACKERS = (MLflow, WandB)
OWN = (EarlyStop, Evaluate, Histograms, Log, ReduceOnPlateau, Save, *TRACKERS)
SPLITS = ("valid", "test")
PARTS = {
    "task": ("init", "players", "evaluate", "predict", "primary", "mode"),
    "data": ("train", "valid", "test", "plan", "transform", "batch", "eval_batch"),
}
"""What an experiment's parts must have, by field."""


def check_experiment(exp: Experiment) -> None:
    """Refuses parts of an experiment that are not what they should be, and hooks that never act.

    Raises:
        InputError: with what is missing, or the order of hooks that works.
    """
    parts = [(field, getattr(exp, field), names) for field, names in PARTS.items()]
    parts += [(f"hooks.{i}", hook, ("open",)) for i, hook in enumerate(exp.hooks)]
    for field, part, names in parts:
        if missing := [name for name in names if not hasattr(part, name)]:
            raise InputError(f"{field}={part!r} lacks {', '.join(missing)}.")
    if exp.task.mode not in ("max", "min"):
        raise InputError(f"task.mode={exp.task.mode!r} must be 'max' or 'min'.")
    _check_hooks(exp)


def _check_hooks(exp: Experiment) -> None:
    saves = [i for i, hook in enumerate(exp.hooks) if isinstance(hook, Save)]
    if saves and saves != [len(exp.hooks) - 1]:
        raise InputError(
            "declare one Save, as the last of the hooks: it keeps what the others know of its step."
        )
    for hook in exp.hooks:
        if isinstance(hook, TRACKERS):
            hook.check()
        if isinstance(hook, Evaluate) and (
            hook.split not in SPLITS or getattr(exp.data, hook.split)() is None
        ):
            there = [split for split in SPLITS if getattr(exp.data, split)() is not None]
            raise InputError(
                f"Evaluate: {type(exp.data).__name__} has no held-out split {hook.split!r}; "
                f"{suggest(hook.split, there)}."
            )
    for name, metric, before in _watchers(exp):
        split = metric.partition("/")[0]
        if not _writers(before, split):
            raise InputError(
                f"{name} watches {metric!r}, which no hook before it writes; declare "
                f"Evaluate(every=..., split={split!r}) before it."
            )


def check_program(program: Program) -> None:
    """Refuses a watched or primary metric that the task does not compute, a rate that no hook can
    turn, and histograms of nothing.

    Raises:
        InputError: with the names there are.
    """
    known = program.evaluate.eval_shape(program.abstract, program.eval_batch, 0)
    exp, params = program.experiment, program.abstract.params
    for name, metric, before in [*_watchers(exp), ("the task", exp.task.primary, exp.hooks)]:
        split, _, short = metric.partition("/")
        ours = all(isinstance(hook, Evaluate) for hook in _writers(before, split))
        if ours and (short not in known or split not in SPLITS):
            there = (f"{split}/{short}" for split in SPLITS for short in known)
            raise InputError(
                f"{name} watches {metric!r}, which is not evaluated; {suggest(metric, there)}."
            )
    for hook in exp.hooks:
        if isinstance(hook, ReduceOnPlateau) and not rates(program.abstract.opt):
            raise InputError(
                "ReduceOnPlateau finds no rate to turn: end the optimizer's chain in "
                "jaxdl.optim.scale_by_rate(schedule)."
            )
        if isinstance(hook, Histograms) and not tree.select(params, hook.params):
            paths = tree.flatten(params)
            raise InputError(
                f"Histograms: no parameter matches {hook.params!r}; {suggest(hook.params, paths)}."
            )


def _watchers(exp: Experiment) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """Name and metric of each plateau hook, and the hooks before it."""
    for i, hook in enumerate(exp.hooks):
        if isinstance(hook, EarlyStop | ReduceOnPlateau):
            yield type(hook).__name__, hook.metric or exp.task.primary, exp.hooks[:i]


def _writers(hooks: Sequence[Any], split: str) -> list[Any]:
    """Those that write `split` in the update they see; a hook not of ours may write anything."""
    return [h for h in hooks if getattr(h, "split", None) == split or not isinstance(h, OWN)]
