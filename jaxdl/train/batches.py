"""The batches that a program trains on."""

from __future__ import annotations

from collections.abc import Callable

from jaxdl import data
from jaxdl.core.task import Batch
from jaxdl.train.program import Program


def training_batches(program: Program) -> Callable[[int], Batch]:
    """`get(n) -> batch n` of the run, laid out as the program's step takes it."""
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
