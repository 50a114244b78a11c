"""Pipeline parallelism: the stages of a model work on different micro-batches at the same time.

A loss is cut at its Stack. Each device along the mesh axis `pipe` holds some of the layers, and
sends features on and gradients back; what lies before and after the layers is computed in the same
tick for the micro-batches that enter and leave them, by every stage, as all hold its parameters;
that of the first and of the last stage counts, and the gradients are added up once, at the end. All
other axes of the mesh stay XLA's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxdl.core import microbatch, tree
from jaxdl.core.errors import InputError
from jaxdl.core.task import GradFn, Params
from jaxdl.parallel.pipeline_cut import PIPE, Cut, Found, Keys, cut, zeros
from jaxdl.parallel.pipeline_schedule import Schedule, Work
from jaxdl.parallel.placement import axes_of
from jaxdl.parallel.rules import context


def pipelined(grad: GradFn, micro_batches: int, kind: str, rank_promotion: str) -> GradFn:
    """`grad` where the rules do not put layers on `pipe`; else what it computes, in a pipeline.

    `grad` accumulates over `micro_batches`: a pipeline takes the same rows with the same keys, and
    adds in the same order. Of its time it loses (S - 1) / (M + S - 1) for S stages and M
    micro-batches (`bubble`). `kind` names the schedule:

    * `gpipe` leaves the way back to JAX, which keeps of all micro-batches what `remat` of the Stack
      says, and computes what follows the Stack again.
    * `1f1b` keeps the inputs of at most 2 S - 1 micro-batches in a stage, and computes the stage
      again from them.
    * `interleaved` is `1f1b` with two runs of layers in each stage: half the bubble, twice the
      messages, and parameters that are sent to their stages and gradients that are sent back.

    Raises:
        InputError: the loss has no Stack, or several, or uses their parameters by itself; something
            else than features passes from layer to layer or into the state; or layers or
            micro-batches do not divide into stages.
    """

    def chosen(player, params, model_state, batch, key):
        here = context()
        stages = here[0].shape[PIPE] if here and PIPE in axes_of(here[1]["layers"]) else 1
        if stages == 1:
            return grad(player, params, model_state, batch, key)
        if model_state:
            raise InputError(
                f"{', '.join(model_state)} pass from one micro-batch to the next, for which a "
                "pipeline does not wait; set mesh.pipe=1."
            )
        with jax.numpy_rank_promotion(rank_promotion):
            schedule = Schedule(kind, stages, micro_batches)
            pipeline = cut(schedule, player, params, batch, key)
            walk = _all_forward if kind == "gpipe" else _back_and_forth
            grads, sums, metrics = walk(pipeline)
        return grads, sums, (model_state, metrics)

    return chosen


def _all_forward(pipeline: Cut) -> Found:
    """All micro-batches forward; JAX goes back."""

    def stage(cut, stage, layers, others):
        def tick(x, t):
            x, keys, work = _entering(cut, stage, others, x, t)
            y = cut.chunk(stage, layers, x, keys, work)
            return cut.send(y, 1), y

        after = jax.checkpoint(cut.after, prevent_cse=False)

        def add(total, given):
            _, found = after(others, *given)
            return microbatch.add(total, ({}, *found)), None

        schedule, nothing = cut.schedule, ({}, *zeros(cut.totals))
        _, y = jax.lax.scan(tick, cut.features(), jnp.arange(schedule.forward_ticks.stop))
        given = y[schedule.stages - 1 :], jnp.arange(schedule.micro_batches)
        (_, *found), _ = jax.lax.scan(add, nothing, given)
        return jax.tree.map(lambda x: x[None], found)

    def loss(layers, others):
        found = pipeline.on_stages(stage, layers, others, P(PIPE))
        sums, metrics = jax.tree.map(lambda x: x[-1], found)
        return sums.total, (sums, metrics)

    grads, (sums, metrics) = jax.grad(loss, argnums=(0, 1), has_aux=True)(*pipeline.parts())
    return tree.merge(grads[1], pipeline.dealt(grads[0], back=True)), sums, metrics


def _back_and_forth(pipeline: Cut) -> Found:
    """In each tick one piece of work forward and one back, while there are both."""

    def stage(cut, stage, layers, others):
        place = cut, stage, layers, others
        ahead, behind = cut.schedule.forward_ticks, cut.schedule.backward_ticks

        def both(carry, t):
            (*rest, total), y = _forward(*place, carry, t)
            dy, found = _loss(cut, stage, others, y, t)
            return _backward(*place, (*rest, microbatch.add(total, found)), t, dy)

        x = cut.features()
        kept = cut.features(cut.schedule.kept)
        carry = x, x, kept, zeros(layers), (zeros(others), *zeros(cut.totals))
        carry = _scan(lambda c, t: _forward(*place, c, t)[0], carry, range(behind.start))
        carry = _scan(both, carry, range(behind.start, ahead.stop))
        drain = partial(_backward, *place, dy_last=x)
        *_, own, total = _scan(drain, carry, range(ahead.stop, behind.stop))
        return own, jax.lax.psum(total, PIPE)

    own, total = pipeline.on_stages(stage, *pipeline.parts(), (P(PIPE), P()))
    grads, sums, metrics = total
    return tree.merge(grads, pipeline.dealt(own, back=True)), sums, metrics


def _entering(
    cut: Cut, stage: Array, others: Params, x: Array, t: Array
) -> tuple[Array, Keys, Work]:
    """What a stage takes forward: features, those that came or those of the loss, and keys."""
    work = cut.schedule.forward(t, stage)
    first, keys = cut.before(others, work.micro)
    # Those without work take features that there can be, for which nothing is infinite.
    return jnp.where((stage == 0) & (work.chunk == 0) | ~work.active, first, x), keys, work


def _forward(cut: Cut, stage: Array, layers: Params, others: Params, carry: Any, t: Array):
    """A stage's work forward; and what came out."""
    x, dy, kept, own, total = carry
    x, keys, work = _entering(cut, stage, others, x, t)
    at = cut.schedule.kept_at(work)
    kept = kept.at[at].set(jnp.where(work.active, x, kept[at]))
    y = cut.chunk(stage, layers, x, keys, work)
    return (cut.send(y, 1), dy, kept, own, total), y


def _loss(cut: Cut, stage: Array, others: Params, y: Array, t: Array) -> tuple[Array, Found]:
    """Of what the last stage has done: the gradient in its features, and what the loss finds.

    The other stages compute as much, of features that are not the last, and it counts nothing: in
    the collectives of the other axes all have to meet.
    """
    last, chunks = cut.schedule.stages - 1, cut.schedule.chunks
    work = cut.schedule.backward(t, last)

    def told(y):
        after = partial(cut.after, i=work.micro)
        _, pull, found = jax.vjp(after, others, y, has_aux=True)
        grads, dy = pull(jnp.ones_like(found[0].total))
        return dy, jax.tree.map(lambda a: jnp.where(stage == last, a, 0), (grads, *found))

    def untold(y):
        return zeros((y, (others, *cut.totals)))

    return told(y) if chunks == 1 else jax.lax.cond(work.chunk == chunks - 1, told, untold, y)


def _backward(
    cut: Cut, stage: Array, layers: Params, others: Params, carry: Any, t: Array, dy_last: Array
):
    """A stage's work back."""
    schedule, (x, dy, kept, own, total) = cut.schedule, carry
    work = schedule.backward(t, stage)
    before = partial(cut.before, i=work.micro)
    first, pull_first, keys = jax.vjp(before, others, has_aux=True)
    given = jnp.where(work.active, kept[schedule.kept_at(work)], first)
    last = (stage == schedule.stages - 1) & (work.chunk == schedule.chunks - 1)
    dy = jnp.where(work.active, jnp.where(last, dy_last, dy), 0)
    _, pull = jax.vjp(lambda p, x: cut.chunk(stage, p, x, keys, work), layers, given)
    grads, dx = pull(dy)
    entered = work.active & (stage == 0) & (work.chunk == 0)
    (more,) = pull_first(jnp.where(entered, dx, 0))
    total = microbatch.add(total, (more, *zeros(cut.totals)))
    return x, cut.send(dx, -1), kept, jax.tree.map(jnp.add, own, grads), total


def _scan(fn: Callable, carry: Any, ticks: range) -> Any:
    if not ticks:
        return carry
    ticks = jnp.arange(ticks.start, ticks.stop)
    return jax.lax.scan(lambda carry, t: (fn(carry, t), None), carry, ticks)[0]
