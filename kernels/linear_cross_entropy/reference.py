"""The loss from all logits at once: the specification, and what all others are held to.

N rows, D features, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Loss:
    """What is computed, apart from the arrays."""

    tied: bool
    """Whether the weights are an embedding [V, D], and not [D, V]."""
    vocab: int
    """Tokens that there are; the weights may be padded to more."""
    z: float
    smoothing: float
    cap: float


def logits(x: Array, w: Array, bias: Array | None, loss: Loss) -> Array:
    """`cap tanh((x w + bias) / cap)` in float32, without tanh where the cap is 0: [N, V]."""
    contracted = ((1,), (1 if loss.tied else 0,)), ((), ())
    y = jax.lax.dot_general(x, w, contracted, preferred_element_type=wide(x))
    if bias is not None:
        y = y + bias.astype(y.dtype)[None]
    return loss.cap * jnp.tanh(y / loss.cap) if loss.cap else y


def forward(
    x: Array, w: Array, bias: Array | None, labels: Array, weights: Array, loss: Loss
) -> tuple[Array, Array]:
    """The weighted sum of the rows' losses, and how many rows that count have the label on top."""
    y = logits(jnp.where(weights[:, None] > 0, x, 0), w, bias, loss)[:, : loss.vocab]
    log_z = jax.nn.logsumexp(y, axis=-1)
    gold = checked(jnp.take_along_axis(y, labels[:, None], axis=-1)[:, 0], labels, weights, loss)
    mean = y.mean(-1)
    rows = log_z - (1 - loss.smoothing) * gold - loss.smoothing * mean + loss.z * log_z**2
    hits = (gold >= y.max(-1)) & (weights > 0)
    return (weights * rows).sum(), hits.sum(dtype=jnp.int32)


def checked(gold: Array, labels: Array, weights: Array, loss: Loss) -> Array:
    """The labels' logits; for a label that is no token NaN, or 0 in a row that does not count."""
    fine = (labels >= 0) & (labels < loss.vocab)
    return jnp.where(fine, gold, jnp.where(weights > 0, jnp.nan, 0))


def gradients(
    x: Array, w: Array, bias: Array | None, labels: Array, weights: Array, loss: Loss
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array | None, Array]]:
    """As `forward`, and the gradients of the sum by x, w, bias and weights."""

    def total(x, w, bias, weights):
        return forward(x, w, bias, labels, weights, loss)

    value, pull, hits = jax.vjp(total, x, w, bias, weights, has_aux=True)
    return (value, hits), pull(jnp.ones_like(value))


def wide(x: Array) -> jnp.dtype:
    """Of sums: float32 or more."""
    return jnp.promote_types(x.dtype, jnp.float32)
