"""GradFns: from a player's loss to undivided sums of gradients, loss and metrics."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdl.core import tree
from jaxdl.core.microbatch import add, micro_batch
from jaxdl.core.task import GradFn


def gradient(rank_promotion: str = "raise") -> GradFn:
    """The plain GradFn: gradient of `Sums.total` in the player's own parameters.

    `rank_promotion` is what happens when the loss broadcasts arrays of different rank.
    """

    def grad(player, params, model_state, batch, key):
        def loss(mine):
            with jax.numpy_rank_promotion(rank_promotion):
                sums, aux = player.loss(tree.merge(params, mine), model_state, batch, key)
            return sums.total, (sums, aux)

        grads, (sums, aux) = jax.grad(loss, has_aux=True)(tree.select(params, player.params))
        return grads, sums, aux

    return grad


def accumulate(grad: GradFn, parts: int, *, unroll: bool) -> GradFn:
    """`grad` over `parts` micro-batches, sums added; the model state passes from one to the next.

    `unroll` writes the loop out: XLA:CPU runs a convolution's gradient inside a loop many times
    slower.
    """
    if parts == 1:
        return grad

    def accumulated(player, params, model_state, batch, key):
        def one(carry, i):
            total, model_state = carry
            given = micro_batch(batch, key, i, parts)
            grads, sums, (model_state, metrics) = grad(player, params, model_state, *given)
            return (add(total, (grads, sums, metrics)), model_state), None

        first = micro_batch(batch, key, 0, parts)
        shapes = jax.eval_shape(lambda: grad(player, params, model_state, *first))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        carry = ((zeros[0], zeros[1], zeros[2][1]), model_state)
        if unroll:
            for i in range(parts):
                carry, _ = one(carry, i)
        else:
            carry, _ = jax.lax.scan(one, carry, jnp.arange(parts))
        (grads, sums, metrics), model_state = carry
        return grads, sums, (model_state, metrics)

    return accumulated


def local_steps(grad: GradFn, parts: int, rate: float) -> GradFn:
    """`grad` over `parts` micro-batches, each at the parameters that a step of SGD at `rate` down
    the one before left (local SGD, where every device does so with rows of its own).

    The gradient is the sum of theirs, `(start - end) / rate`, times the weight of the examples:
    added over devices and divided by their weight, a step of `rate` down it leads to the average of
    where they ended, and another optimizer takes it for the direction (Stich 2018,
    arXiv:1805.09767; Douillard et al. 2023, arXiv:2311.08105). One micro-batch gives the plain
    gradient. Updates that wait for nobody could not be repeated, and are not offered.
    """

    def wandered(player, params, model_state, batch, key):
        start = tree.select(params, player.params)
        moved, done = jax.tree.map(jnp.zeros_like, start), None
        for i in range(parts):
            given = micro_batch(batch, key, i, parts)
            here = jax.tree.map(lambda p, m: p - rate * m, start, moved)
            here = tree.merge(params, here)
            grads, sums, (model_state, metrics) = grad(player, here, model_state, *given)
            weight = jnp.maximum(sums.weight, 1e-12)  # masked rows alone move nothing
            moved = jax.tree.map(lambda m, g, w=weight: m + g / w, moved, grads)
            found = ({}, sums, metrics)
            done = found if done is None else add(done, found)
        _, sums, metrics = done
        moved = jax.tree.map(lambda m: m * sums.weight, moved)
        return moved, sums, (model_state, metrics)

    return wandered
