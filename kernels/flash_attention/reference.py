"""Attention and its gradients with all logits in memory: what every implementation is held to.

B batch, T queries, S keys, H heads, G heads of keys and values, K head size, V size of values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.kernels.flash_attention.spec import (
    EMPTY,
    HIDDEN,
    DropWeights,
    Extras,
    Spec,
    capped,
    in_band,
)


def forward(spec: Spec, q: Array, k: Array, v: Array, extras: Extras) -> tuple[Array, Array]:
    """`softmax(logits) v` and the logarithm of the softmax's denominator, both zeros and -inf for a
    query that sees nothing.

    Shapes: q [B, T, H, K], k [B, S, G, K], v [B, S, G, V] -> [B, T, H, V], [B, H, T] f32.
    """
    logits = logits_of(spec, q, k, extras)
    shown, seen = logits > EMPTY, seen_by(spec, q, k, extras)
    seen = shown if seen is None else shown & seen
    logits = jnp.where(seen, logits, HIDDEN)
    most = logits.max(-1, keepdims=True)
    weights = jnp.where(seen, jnp.exp(logits - most), 0)
    total = weights.sum(-1, keepdims=True)
    some = total > 0
    # Guarded twice: where() passes NaN gradients of what it does not take.
    weights = weights / jnp.where(some, total, 1)
    lse = jnp.where(some, most + jnp.log(jnp.where(some, total, 1)), -jnp.inf)
    if spec.dropout:
        weights = DropWeights(spec.dropout, extras.seeds, extras.runs)(weights)
    y = jnp.einsum("bgnts,bsgv->btgnv", grouped(weights, k), v.astype(weights.dtype))
    return y.reshape(*q.shape[:3], v.shape[-1]).astype(q.dtype), lse[..., 0]


def backward(
    spec: Spec,
    wanted_bias: bool,
    q: Array,
    k: Array,
    v: Array,
    extras: Extras,
    y: Array,
    lse: Array,
    dy: Array,
    dlse: Array,
) -> tuple[Array, Array, Array, Array | None]:
    """The cotangents of q, k, v, and of the bias where it is wanted."""
    q, k, v, y, dy = (x.astype(spec.of_gradient(x.dtype)) for x in (q, k, v, y, dy))

    def run(q, k, v, bias):
        return forward(spec, q, k, v, extras._replace(bias=bias))

    bias = extras.bias
    if wanted_bias:
        (own, norm), pull = jax.vjp(run, q, k, v, bias)
    else:
        (own, norm), pull = jax.vjp(lambda q, k, v: run(q, k, v, bias), q, k, v)
    if spec.part:
        # The whole is own exp(norm - lse) and the like of other keys.
        none = jnp.isneginf(norm)
        share = jnp.where(none, 0, jnp.exp(jnp.where(none, 0, norm - lse)))
        dlse = share * (dlse + (dy * (own - y)).sum(-1).swapaxes(1, 2))
        dy = dy * share.swapaxes(1, 2)[..., None]
    return (*pull((dy, dlse)), *(() if wanted_bias else (None,)))


def logits_of(spec: Spec, q: Array, k: Array, extras: Extras) -> Array:
    """[B, H, T, S], in float32, or in float64 if the input is."""
    batch, time, heads, size = q.shape
    q = q.reshape(batch, time, k.shape[2], -1, size)
    kind = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("btgnk,bsgk->bgnts", q, k, preferred_element_type=kind)
    logits = logits.reshape(batch, heads, time, k.shape[1]) * spec.scale
    logits = capped(logits, spec.soft_cap)
    return logits if extras.bias is None else logits + extras.bias


def seen_by(spec: Spec, q: Array, k: Array, extras: Extras) -> Array | None:
    """Which keys positions and segments leave to the queries [1 or B, 1, T, S] bool; None: all."""
    offset = extras.offset if spec.offset is None else spec.offset
    rows, columns = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])[None]
    seen = in_band(spec, rows + offset, columns)
    if seen is not None:
        seen = seen[None, None]
    if extras.q_segments is None:
        return seen
    same = (extras.q_segments[:, :, None] == extras.kv_segments[:, None])[:, None]
    return same if seen is None else seen & same


def grouped(weights: Array, k: Array) -> Array:
    """[B, H, T, S] -> [B, G, N, T, S], by the heads of k."""
    batch, _, *rest = weights.shape
    return weights.reshape(batch, k.shape[2], -1, *rest)
