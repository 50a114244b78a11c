"""Evaluation over a whole split."""

from __future__ import annotations

from collections.abc import Callable

from jaxdl import data
from jaxdl.core.errors import InputError
from jaxdl.core.task import Batch
from jaxdl.metrics import compute, merge
from jaxdl.train.layout import evaluation_transform
from jaxdl.train.program import Program
from jaxdl.train.state import State

Batches = tuple[Callable[[int], Batch], int]
"""`get(n)`, and how many there are."""


def evaluation_batches(program: Program, split: str) -> Batches:
    """One pass over `split`, in order, the last batch padded; the data are opened once.

    Examples go through the transform of evaluation, those of the training split too.

    Raises:
        InputError: the data have no such split.
    """
    config = program.experiment.data
    source = getattr(config, split)()
    if source is None:
        raise InputError(f"{type(config).__name__} has no {split} split.")
    size = next(iter(program.eval_batch.values())).shape[0]
    get = data.batches(
        source,
        batch=size,
        seed=program.experiment.seed,
        plan=config.plan(split) if split != "train" else None,
        transform=evaluation_transform(config, split),
        epochs=1,
        shuffle=False,
        mesh=program.mesh,
        spec=program.eval_batch["mask"].sharding.spec,
    )
    return get, data.count(source, size)


def evaluate(
    program: Program,
    state: State,
    split: str,
    between: Callable[[], None] = lambda: None,
    batches: Batches | None = None,
) -> dict[str, float]:
    """Metrics of `split`, exact over its examples; `between` is called before each batch.

    Who evaluates often passes the `evaluation_batches`, so that the data are opened once.
    """
    get, count = batches or evaluation_batches(program, split)

    def states():
        for n in range(count):
            between()
            found = program.evaluate(state, get(n), n)
            program.settle(found)
            yield found

    return compute(merge(states()))
