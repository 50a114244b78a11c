"""Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

B batch, T queries, S keys, H heads, K head size, D = H K width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.nn.layers import dense, dropout
from jaxdl.parallel import constrain


def attend(
    q: Array, k: Array, v: Array, mask: Array | None = None, drop: Callable | None = None
) -> Array:
    """`softmax(q k^T / sqrt(K)) v`; logits and softmax in float32.

    `mask` is True where a query may look; a query that may look nowhere gets zeros. `drop` acts on
    the weights.

    Shapes: q [B, T, H, K], k and v [B, S, H, K], mask [1 or B, 1 or H, T, S] -> [B, T, H, K].
    """
    logits = jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=jnp.float32)
    logits *= q.shape[-1] ** -0.5
    if mask is not None:
        # Finite, so that a row without a single key has a gradient.
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits)
    if drop is not None:
        weights = drop(weights)
    y = jnp.einsum("bhts,bshk->bthk", weights.astype(v.dtype), v)
    if mask is None:
        return y
    return jnp.where(jnp.swapaxes(mask.any(-1, keepdims=True), 1, 2), y, 0.0)


def causal_mask(length: int) -> Array:
    """True where key <= query. Shape [1, 1, T, T]."""
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


class Attention(nn.Module):
    """Multi-head self-attention with biases; `causal` hides the future from each position.

    `std` and `out_std` are the initial spreads of the q, k, v and of the output weights; None is
    LeCun's. `dropout` acts on the attention weights.

    With `cache` above 0, keys and values of the latest calls, up to `cache` positions in all, are
    kept in the collection `cache`: x continues what came before, and each position sees itself and
    its past. The caller keeps count of the positions, and gives no mask.

    Shapes: x [B, T, D], mask [1 or B, 1 or H, T, T] -> [B, T, D].
    """

    heads: int
    causal: bool = False
    dropout: float = 0.0
    std: float | None = None
    out_std: float | None = None
    cache: int = 0

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, *, train: bool = False) -> Array:
        """Mixes positions."""
        batch, time, width = x.shape
        _check_heads(width, self.heads)

        def project(name: str, kind: str) -> Array:
            y = dense(width, ("embed", kind), std=self.std, name=name)(x)
            y = y.reshape(batch, time, self.heads, width // self.heads)
            return constrain(y, ("batch", "time", f"act_{kind}", None))

        q, k, v = project("q", "heads"), project("k", "kv"), project("v", "kv")
        if self.cache:
            if mask is not None:
                raise InputError(f"cache={self.cache} takes no mask; it hides the future only.")
            k, v, mask = self._remember(k, v)
        elif self.causal:
            past = causal_mask(time)
            mask = past if mask is None else mask & past
        y = attend(q, k, v, mask, dropout(self.dropout, train))
        y = y.reshape(batch, time, width)
        return dense(width, ("heads", "embed"), std=self.out_std, name="out")(y)

    def _remember(self, k: Array, v: Array) -> tuple[Array, Array, Array]:
        """All keys and values up to now [B, S, H, K], and which each position may see."""
        batch, time, *rest = k.shape
        keys = self.variable("cache", "keys", jnp.zeros, (batch, self.cache, *rest), k.dtype)
        values = self.variable("cache", "values", jnp.zeros, (batch, self.cache, *rest), v.dtype)
        start = self.variable("cache", "length", jnp.zeros, (), jnp.int32)
        now = start.value + jnp.arange(time)
        keys.value = jax.lax.dynamic_update_slice_in_dim(keys.value, k, start.value, axis=1)
        values.value = jax.lax.dynamic_update_slice_in_dim(values.value, v, start.value, axis=1)
        start.value += time
        past = jnp.arange(self.cache)[None, :] <= now[:, None]
        return keys.value, values.value, past[None, None]


def _check_heads(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        fits = [h for h in range(1, width + 1) if width % h == 0]
        near = sorted(sorted(fits, key=lambda h: abs(h - heads))[:2])
        raise InputError(
            f"width={width} is not divisible by heads={heads}; the nearest that fit: {near}."
        )
