"""Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

B batch, T queries, S keys, H heads, G heads of keys and values, K head size, D = H K width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.kernels.flash_attention import DropWeights, flash_attention, seeds_of
from jaxdl.nn.layers import check_rate, dense
from jaxdl.parallel import constrain, context, context_parallel, device_kind, per_shard


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    drop: DropWeights | None = None,
    *,
    causal: bool = False,
    offset: Array | None = None,
) -> Array:
    """`softmax(q k^T / sqrt(K)) v` by the attention kernel; logits and softmax in float32.

    `mask` is True where a query may look, and `causal` hides the keys that come after it, the first
    query standing at key `offset` (None: S - T); a query that may look nowhere gets zeros. H / G
    consecutive heads of queries share one of keys and values (Ainslie et al. 2023,
    arXiv:2305.13245).

    Shapes: q [B, T, H, K], k and v [B, S, G, K], mask [1 or B, 1 or H, 1 or T, S] -> [B, T, H, K].
    """
    here = context()
    if here and here[1]["act_kv"] != here[1]["act_heads"]:
        # Else a device would miss keys for its queries' heads, or have those of others.
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    features = "batch", None, "act_heads", None
    given = {"q": (q, features), "k": (k, features), "v": (v, features)}
    if mask is not None:
        names = (
            name if n > 1 else None for name, n in zip(features[::2], mask.shape, strict=False)
        )
        given["bias"] = jnp.where(mask, 0.0, -jnp.inf), (*names, None, None)
    if drop is not None:
        given["seeds"] = drop.seeds, features[::2]
    if offset is not None:
        given["offset"] = offset, ()
    arrays, names = zip(*given.values(), strict=True)
    kind = device_kind()

    def attention(*arrays):
        options = dict(zip(given, arrays, strict=True))
        static = {"causal": causal, "dropout": drop.rate if drop else 0.0, "device": kind}
        return flash_attention(**options, **static)

    return per_shard(attention, names, features)(*arrays)


def causal_mask(length: int) -> Array:
    """True where key <= query. Shape [1, 1, T, T]."""
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


class Attention(nn.Module):
    """Multi-head self-attention with biases; `causal` hides the future from each position.

    `std` and `out_std` are the initial spreads of the q, k, v and of the output weights; None is
    LeCun's. `dropout` acts on the attention weights. There are as many heads of keys and values as
    of queries, or `kv_heads`, each for as many of queries. `rotary(x, now)` is what becomes of
    queries and keys x [B, T, H, K] at positions now [T], such as `nn.Rotary()`.

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
    kv_heads: int = 0
    rotary: Callable[[Array, Array], Array] | None = None

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, *, train: bool = False) -> Array:
        """Mixes positions."""
        batch, time, width = x.shape
        groups = self.kv_heads or self.heads
        _check_heads(width, self.heads, groups)
        size = width // self.heads

        def project(name: str, kind: str, heads: int) -> Array:
            y = dense(heads * size, ("embed", kind), std=self.std, name=name)(x)
            return constrain(
                y.reshape(batch, time, heads, size), ("batch", "time", f"act_{kind}", None)
            )

        q = project("q", "heads", self.heads)
        k, v = project("k", "kv", groups), project("v", "kv", groups)
        before = self._advance(time) if self.cache else jnp.int32(0)
        if self.rotary:
            now = before + jnp.arange(time)
            q, k = self.rotary(q, now), self.rotary(k, now)
        check_rate(self.dropout)
        drop = None
        if train and self.dropout:
            seeds = seeds_of(self.make_rng("dropout"), batch, self.heads)
            drop = DropWeights(self.dropout, seeds)
        if self.cache:
            if mask is not None:
                raise InputError(f"cache={self.cache} takes no mask; it hides the future only.")
            k, v = self._remember("keys", k, before), self._remember("values", v, before)
            y = attend(q, k, v, drop=drop, causal=True, offset=before)
        else:
            y = context_parallel(attend, q, k, v, mask, drop, causal=self.causal)
        y = y.reshape(batch, time, width)
        return dense(width, ("heads", "embed"), std=self.out_std, name="out")(y)

    def _advance(self, time: int) -> Array:
        """How many positions there were before these."""
        length = self.variable("cache", "length", jnp.zeros, (), jnp.int32)
        before = length.value
        length.value += time
        return before

    def _remember(self, name: str, x: Array, before: Array) -> Array:
        """All that `name` holds up to now: [B, T, H, K] -> [B, S, H, K]."""
        batch, _, *rest = x.shape
        kept = self.variable("cache", name, jnp.zeros, (batch, self.cache, *rest), x.dtype)
        kept.value = jax.lax.dynamic_update_slice_in_dim(kept.value, x, before, axis=1)
        return kept.value


def _check_heads(width: int, heads: int, groups: int) -> None:
    if heads < 1 or width % heads:
        raise InputError(
            f"width={width} is not divisible by heads={heads}; "
            f"the nearest that fit: {_nearest(width, heads)}."
        )
    if groups < 1 or heads % groups:
        raise InputError(
            f"heads={heads} is not divisible by kv_heads={groups}; "
            f"the nearest that fit: {_nearest(heads, groups)}."
        )


def _nearest(number: int, divisor: int) -> list[int]:
    """The two divisors of `number` that are nearest."""
    fits = [n for n in range(1, number + 1) if number % n == 0]
    return sorted(sorted(fits, key=lambda n: abs(n - divisor))[:2])
