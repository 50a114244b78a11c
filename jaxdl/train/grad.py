"""GradFns: from a player's loss to undivided sums of gradients, loss and metrics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core import rng, tree
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

    Micro-batch i takes rows i, i + parts, ... so that a row stays on its device. `unroll` writes
    the loop out: XLA:CPU runs a convolution's gradient inside a loop many times slower.
    """
    if parts == 1:
        return grad

    def accumulated(player, params, model_state, batch, key):
        def one(carry, i):
            total, model_state = carry
            part = jax.tree.map(lambda x: _rows(x, i, parts), batch)
            grads, sums, (model_state, metrics) = grad(
                player, params, model_state, part, rng.fold(key, i)
            )
            return (_add(total, (grads, sums, metrics)), model_state), None

        first = jax.tree.map(lambda x: _rows(x, 0, parts), batch)
        shapes = jax.eval_shape(lambda: grad(player, params, model_state, first, key))
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


def _rows(x: jax.Array, i: Any, parts: int) -> jax.Array:
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:])[:, i]


def _add(left: tuple, right: tuple) -> tuple:
    """Gradients and sums added, metric states merged (a state of zeros changes nothing)."""
    grads = jax.tree.map(jnp.add, left[0], right[0])
    metrics = {name: left[2][name].merge(state) for name, state in right[2].items()}
    return grads, left[1] + right[1], metrics
