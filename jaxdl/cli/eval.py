"""`jaxdl eval`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdl.cli import screen
from jaxdl.core import records
from jaxdl.core.codec import load
from jaxdl.core.errors import InputError
from jaxdl.train import build
from jaxdl.train import evaluate as evaluate_split
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.passport import fingerprints

log = logging.getLogger("jaxdl")
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


def evaluate(
    run: Run,
    split: Literal["test", "valid", "train"] = "test",
    last: screen.Flag = False,
    json: screen.Flag = False,
) -> int:
    """Evaluate a run's best checkpoint by its primary metric.

    Example: jaxdl eval runs/quickstart/base-1a2b3c4d --split valid

    Args:
        run: run directory.
        split: which examples.
        last: take the newest checkpoint instead of the best.
        json: print one JSON object.
    """
    passport = records.read_passport(run)
    try:
        exp = load(passport.experiment)
    except InputError as error:
        raise InputError(f"{error} The run was started in {passport.folder}.") from None
    known, now = passport.data.get(split), fingerprints(exp.data).get(split)
    if known != now:
        log.warning("the %s data are not those the run was made with.", split)
    program = build(exp)
    saved = Checkpoints(run / records.CHECKPOINTS, primary=exp.task.primary, mode=exp.task.mode)
    best = None if last else saved.best_intact()
    intact = saved.restore if best is None else partial(saved.load, best)
    state = intact(program.abstract)
    if state is None:
        raise InputError(f"{run} has no checkpoint yet; train it first.")
    metrics = evaluate_split(program, state, split)
    if json:
        screen.print_json(
            {"run": str(run), "step": int(state.step), "split": split, "values": metrics}
        )
    else:
        print(f"{run}, step {int(state.step)}")
        screen.print_metrics({split: metrics}, exp.task.primary)
    return 0
