"""The loop: steps and hooks, nothing else."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from jaxdl.core.hook import Hook, Stop
from jaxdl.core.task import Batch
from jaxdl.train.state import State

GARBAGE = 50_000
"""Objects made and not yet freed before Python looks for cycles among them; 700 by default."""


def train(
    step_fn: Callable,
    state: State,
    batches: Callable[[int], Batch],
    steps: int,
    hooks: Sequence[Hook] = (),
) -> tuple[State, Stop | None]:
    """The state after `steps` updates in all, of which `state` may have made some, and what ended
    it early.

    Hooks see every update in the order given. When one raises `Stop`, the others still see that
    update; any other exception names the hook. Python's garbage collector runs less often
    meanwhile: it would walk all there is for the few objects of each update.
    """
    threshold = gc.get_threshold()
    gc.set_threshold(GARBAGE, *threshold[1:])
    try:
        return _train(step_fn, state, batches, steps, hooks)
    finally:
        gc.set_threshold(*threshold)


def _train(step_fn, state, batches, steps, hooks):
    step, cursor, stop = int(state.step), int(state.cursor), None
    while step < steps and stop is None:
        state, metrics = step_fn(state, batches(cursor))
        step, cursor = step + 1, cursor + 1
        for hook in hooks:
            try:
                replaced = hook(step, state, metrics)
            except Stop as raised:
                stop = stop or raised
                continue
            except Exception as error:
                name = getattr(hook, "__name__", type(hook).__name__)
                error.add_note(f"raised by the hook {name} after update {step}")
                raise
            if replaced is not None:
                state = replaced
                step, cursor = int(state.step), int(state.cursor)
    return state, stop
