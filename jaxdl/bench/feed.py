"""How much of its time a training step waits for its batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from jaxdl.core.task import Batch


@dataclass(frozen=True)
class Fed:
    """What `feed` measured."""

    seconds: float
    """Wall time of all steps and their waiting."""
    waiting: float
    """The part of it in which the next batch was not there, 0 to 1."""


def feed(
    step: Callable[[Batch], None],
    get: Callable[[int], Batch],
    steps: int,
    *,
    first: int = 0,
    finish: Callable[[], None] = lambda: None,
) -> Fed:
    """Calls `step` on batches `first`, `first + 1` ... of `get`, and `finish` within the time.

    The clock starts when the first batch is there and nothing is made ahead, and the batch after
    the last is waited for: so every step is followed by one wait as it is in the middle of a run,
    where the batches made ahead are used up if the step is quicker than its input.
    """
    batch, waited = get(first), 0.0
    start = time.perf_counter()
    for n in range(first + 1, first + steps + 1):
        step(batch)
        asked = time.perf_counter()
        batch = get(n)
        waited += time.perf_counter() - asked
    finish()
    seconds = time.perf_counter() - start
    return Fed(seconds, waited / seconds)
