"""Pipeline parallelism: the stages of a model work on different micro-batches at the same time.

A loss is cut at its Stack. Each device along the mesh axis `pipe` holds some of the layers, and
sends features on and gradients back; what lies before and after the layers is computed in the same
tick for the micro-batches that enter and leave them. All other axes of the mesh stay XLA's.
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
from jaxdl.parallel.pipeline_cut import PIPE, Cut, Found, cut, zeros
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
    schedule = pipeline.schedule
    micro_batches, keys = pipeline.micro_batches(), pipeline.keys()

    def stages(stage, frozen, layers, first, keys):
        def tick(x, t):
            work = schedule.forward(t, stage[0])
            x = jnp.where((stage[0] == 0) | ~work.active, first[work.micro], x)
            y = pipeline.chunk(stage[0], frozen, layers, x, keys, work)
            return pipeline.send(y, 1), y

        _, y = jax.lax.scan(tick, pipeline.features(), jnp.arange(schedule.forward_ticks.stop))
        return y[None, schedule.stages - 1 :]

    def loss(layers, others):
        first = jax.lax.map(lambda i: pipeline.before(others, i)[0], micro_batches)
        run = pipeline.on_stages(stages, P(PIPE), P(), P())
        after = jax.checkpoint(pipeline.after, prevent_cse=False)

        def add(total, given):
            _, found = after(others, *given)
            return microbatch.add(total, ({}, *found)), None

        total = ({}, *zeros(pipeline.totals))
        y = run(layers, first, keys)[-1]
        (_, sums, metrics), _ = jax.lax.scan(add, total, (y, micro_batches))
        return sums.total, (sums, metrics)

    grads, (sums, metrics) = jax.grad(loss, argnums=(0, 1), has_aux=True)(*pipeline.parts())
    return tree.merge(grads[1], pipeline.dealt(grads[0], back=True)), sums, metrics


def _back_and_forth(pipeline: Cut) -> Found:
    """In each tick one piece of work forward and one back, while there are both."""
    schedule, (layers, others) = pipeline.schedule, pipeline.parts()
    keys = pipeline.keys()
    forward = pipeline.on_stages(partial(_forward, pipeline), *3 * (P(PIPE),), *3 * (P(),))
    backward = pipeline.on_stages(partial(_backward, pipeline), *4 * (P(PIPE),), *4 * (P(),))

    def go(carry, t):
        x, dy, kept, own, total = carry
        first, _ = pipeline.before(others, schedule.forward(t, 0).micro)
        x, y, kept = forward(layers, x, kept, first, keys, t)
        return (x, dy, kept, own, total), y[-1]

    def back(carry, t, dy_last):
        x, dy, kept, own, total = carry
        work = schedule.backward(t, 0)
        first, pull, _ = jax.vjp(lambda p: pipeline.before(p, work.micro), others, has_aux=True)
        dy, dx, own = backward(layers, dy, kept, own, first, dy_last, keys, t)
        (grads,) = pull(jnp.where(work.active & (work.chunk == 0), dx[0], 0))
        nothing = zeros(pipeline.totals)
        return x, dy, kept, own, microbatch.add(total, (grads, *nothing))

    def both(carry, t):
        (*rest, total), y = go(carry, t)
        dy, found = _loss(pipeline, others, y, schedule.backward(t, schedule.stages - 1))
        return back((*rest, microbatch.add(total, found)), t, dy)

    x = pipeline.features(schedule.stages)
    kept = pipeline.features(schedule.stages, schedule.kept)
    carry = x, x, kept, zeros(layers), (zeros(others), *zeros(pipeline.totals))
    ahead, behind = schedule.forward_ticks, schedule.backward_ticks
    carry = _scan(lambda c, t: go(c, t)[0], carry, range(behind.start))
    carry = _scan(both, carry, range(behind.start, ahead.stop))
    drain = partial(back, dy_last=pipeline.features())
    *_, own, total = _scan(drain, carry, range(ahead.stop, behind.stop))
    grads, sums, metrics = total
    return tree.merge(grads, pipeline.dealt(own, back=True)), sums, metrics


def _loss(pipeline: Cut, others: Params, y: Array, work: Work) -> tuple[Array, Found]:
    """Of what the last stage has done: the gradient in its features, and what the loss finds."""

    def told(y):
        after = partial(pipeline.after, i=work.micro)
        _, pull, found = jax.vjp(after, others, y, has_aux=True)
        grads, dy = pull(jnp.ones_like(found[0].total))
        return dy, (grads, *found)

    def untold(y):
        return zeros((y, (others, *pipeline.totals)))

    chunks = pipeline.schedule.chunks
    # No stage knows more of this than another, so that all meet in the collectives inside.
    return told(y) if chunks == 1 else jax.lax.cond(work.chunk == chunks - 1, told, untold, y)


def _forward(pipeline, stage, frozen, layers, x, kept, first, keys, t):
    """A stage's work forward: what to send, what came out, and what to keep."""
    schedule, (stage,), (x,), (kept,) = pipeline.schedule, stage, x, kept
    work = schedule.forward(t, stage)
    # Those without work take features that there can be, for which nothing is infinite.
    x = jnp.where((stage == 0) & (work.chunk == 0) | ~work.active, first, x)
    at = schedule.kept_at(work)
    kept = kept.at[at].set(jnp.where(work.active, x, kept[at]))
    y = pipeline.chunk(stage, frozen, layers, x, keys, work)
    return pipeline.send(y, 1)[None], y[None], kept[None]


def _backward(pipeline, stage, frozen, layers, dy, kept, own, first, dy_last, keys, t):
    """A stage's work back: what to send, the gradient in its input, and those of its layers."""
    schedule, (stage,), (dy,), (kept,) = pipeline.schedule, stage, dy, kept
    work = schedule.backward(t, stage)
    x = jnp.where(work.active, kept[schedule.kept_at(work)], first)
    last = (stage == schedule.stages - 1) & (work.chunk == schedule.chunks - 1)
    dy = jnp.where(work.active, jnp.where(last, dy_last, dy), 0)
    _, pull = jax.vjp(lambda p, x: pipeline.chunk(stage, frozen, p, x, keys, work), layers, x)
    grads, dx = pull(dy)
    return pipeline.send(dx, -1)[None], dx[None], jax.tree.map(jnp.add, own, grads)


def _scan(fn: Callable, carry: Any, ticks: range) -> Any:
    if not ticks:
        return carry
    ticks = jnp.arange(ticks.start, ticks.stop)
    return jax.lax.scan(lambda carry, t: (fn(carry, t), None), carry, ticks)[0]
