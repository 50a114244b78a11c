"""Attention over few positions on a CPU: its weights are kept for the way back, where all fit a
cache and to compute them again takes longer.

B batch, T queries, S keys, H = G N heads in groups of N, K head size, V size of values.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxdl.kernels.flash_attention.reference import grouped, logits_of, seen_by
from jaxdl.kernels.flash_attention.spec import EMPTY, FAR, HIDDEN, DropWeights, Extras, Spec

MOST = 2**19
"""So many weights are few."""


class Weights(NamedTuple):
    """The softmax, and what dropout leaves of it: [B, H, T, S], wide."""

    all: Array
    left: Array


def fits(q: Array, k: Array) -> bool:
    """Whether the weights of these are few."""
    return q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] <= MOST


def forward(
    spec: Spec, q: Array, k: Array, v: Array, extras: Extras
) -> tuple[Array, Array, Weights]:
    """As the reference, and the weights."""
    logits = _seen_logits(spec, q, k, extras)
    most = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - most)
    total = weights.sum(-1, keepdims=True)
    some = most > EMPTY
    weights = weights * jnp.where(some, 1 / total, 0)
    lse = jnp.where(some, most + jnp.log(total), -jnp.inf)[..., 0]
    weights = _dropped(spec, extras, weights)
    y = jnp.einsum("bgnts,bsgv->bgntv", grouped(weights.left, k), v.astype(weights.left.dtype))
    return _joined(y).astype(q.dtype), lse, weights


def recalled(spec: Spec, q: Array, k: Array, extras: Extras, lse: Array) -> Weights:
    """The weights of keys to a row of this log-sum-exp, be they all that it sees or a part."""
    norm = jnp.where(jnp.isneginf(lse), FAR, lse)[..., None]
    return _dropped(spec, extras, jnp.exp(_seen_logits(spec, q, k, extras) - norm))


def backward(
    spec: Spec,
    wanted_bias: bool,
    q: Array,
    k: Array,
    v: Array,
    extras: Extras,
    y: Array,
    weights: Weights,
    dy: Array,
    dlse: Array,
) -> tuple[Array, Array, Array, Array | None]:
    """As the reference, from the weights."""
    kind, like = weights.all.dtype, spec.of_gradient(q.dtype)
    q, k, v, y, dy = (x.astype(kind) for x in (q, k, v, y, dy))
    dy_heads = dy.reshape(*dy.shape[:2], k.shape[2], -1, dy.shape[-1])
    inner = (dy * y).sum(-1).swapaxes(1, 2) - dlse
    dleft = jnp.einsum("btgnv,bsgv->bgnts", dy_heads, v).reshape(weights.all.shape)
    dlogits = weights.left * dleft - weights.all * inner[..., None]
    dv = jnp.einsum("bgnts,btgnv->bsgv", grouped(weights.left, k), dy_heads)
    dbias = _bias(dlogits, extras.bias) if wanted_bias else None
    if spec.soft_cap is not None:
        bare = logits_of(spec, q, k, extras._replace(bias=None))
        dlogits = dlogits * (1 - (bare / spec.soft_cap) ** 2)
    dlogits = grouped(dlogits * spec.scale, k)
    dq = jnp.einsum("bgnts,bsgk->bgntk", dlogits, k)
    dk = jnp.einsum("bgnts,btgnk->bsgk", dlogits, q.reshape(*dy_heads.shape[:4], q.shape[-1]))
    dq, dk, dv = (x.astype(like) for x in (_joined(dq), dk, dv))
    return dq, dk, dv, dbias


def _seen_logits(spec: Spec, q: Array, k: Array, extras: Extras) -> Array:
    logits, seen = logits_of(spec, q, k, extras), seen_by(spec, q, k, extras)
    if extras.bias is not None:
        shown = logits > EMPTY
        seen = shown if seen is None else seen & shown
    return logits if seen is None else jnp.where(seen, logits, HIDDEN)


def _dropped(spec: Spec, extras: Extras, weights: Array) -> Weights:
    if not spec.dropout:
        return Weights(weights, weights)
    return Weights(weights, DropWeights(spec.dropout, extras.seeds, extras.runs)(weights))


def _bias(dlogits: Array, bias: Array) -> Array:
    spread = [dim for dim, size in enumerate(bias.shape) if size < dlogits.shape[dim]]
    return dlogits.sum(spread, keepdims=True).astype(bias.dtype)


def _joined(x: Array) -> Array:
    """[B, G, N, T, K] -> [B, T, H, K]."""
    return x.reshape(x.shape[0], -1, *x.shape[3:]).swapaxes(1, 2)
