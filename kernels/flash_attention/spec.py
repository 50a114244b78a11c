"""What every implementation is told: which keys a query sees, and which weights are dropped.

Both are functions of positions, so that a block computes its own part and none is ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

HIDDEN = float(jnp.finfo(jnp.float32).min)
"""The logit of a key that is not seen: finite, since the difference of two infinities is none."""
EMPTY = HIDDEN / 2
"""A key whose logit is not above is not seen, a bias of -inf among them."""
FAR = -EMPTY
"""The log-sum-exp, on the way back, of a row that is padding or saw nothing: no weight is left."""


@dataclass(frozen=True)
class Spec:
    """The static part. A query at t stands at t + offset among the keys, and sees those from `left`
    before to `right` after it; None is no bound.

    Logits are `cap(scale q k^T) + bias`, cap(x) = soft_cap tanh(x / soft_cap); a weight is dropped
    with probability `dropout`. `offset` None is dynamic: `Extras.offset`. `device` is the kind of
    device by which sizes of blocks are chosen. `part` tells the way back that y and the log-sum-exp
    are over more keys than these, so that gradients are terms of sums, and in float32.
    """

    scale: float
    left: int | None = None
    right: int | None = None
    soft_cap: float | None = None
    dropout: float = 0.0
    offset: int | None = 0
    device: str = ""
    part: bool = False

    @property
    def banded(self) -> bool:
        """Whether positions hide anything."""
        return self.left is not None or self.right is not None

    def of_gradient(self, dtype: Any) -> Any:
        """The dtype of the gradient of an input."""
        return jnp.promote_types(dtype, jnp.float32) if self.part else dtype

    def keys(self, start: int, stop: int, count: int) -> tuple[int, int]:
        """The first of `count` keys that queries start to stop - 1 may see, and the end of them."""
        if self.offset is None:
            return 0, count
        low = 0 if self.left is None else start + self.offset - self.left
        high = count if self.right is None else stop + self.offset + self.right
        return min(max(low, 0), count), min(max(high, 0), count)


class Extras(NamedTuple):
    """Optional arrays.

    Shapes: bias [1 or B, 1 or H, 1 or T, S], q_segments [B, T] and kv_segments [B, S] int, seeds
    [B, H] uint32, offset [] int32, runs [2, 3] int32.
    """

    bias: Array | None = None
    q_segments: Array | None = None
    kv_segments: Array | None = None
    seeds: Array | None = None
    offset: Array | None = None
    runs: Array | None = None


def in_band(spec: Spec, rows: Array, columns: Array) -> Array | None:
    """Whether a query that stands at `rows` (offset included) may look at `columns`; None: all."""
    distance = columns - rows
    seen = None
    if spec.right is not None:
        seen = distance <= spec.right
    if spec.left is not None:
        near = distance >= -spec.left
        seen = near if seen is None else seen & near
    return seen


def capped(x: Array, cap: float | None) -> Array:
    """`x` softly bound to +-cap (Gemma 2, arXiv:2408.00118, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def seeds_of(key: Array, batch: int, heads: int) -> Array:
    """Seeds [B, H] uint32 of the dropout, which may be divided over devices like the heads."""
    return jax.random.bits(key, (batch, heads), jnp.uint32)


@dataclass(frozen=True)
class DropWeights:
    """Drops attention weights with probability `rate`, as the kernels do by themselves."""

    rate: float
    seeds: Array
    runs: Array | None = None

    def __call__(self, weights: Array) -> Array:
        """Zeroes some, and scales the others by 1 / (1 - rate): weights [B, H, T, S] -> same."""
        rows, columns = (
            jnp.arange(n, dtype=jnp.int32).reshape(shape)
            for n, shape in zip(weights.shape[2:], ((1, 1, -1, 1), (1, 1, 1, -1)), strict=True)
        )
        if self.runs is not None:
            rows, columns = map(standing, self.runs, (rows, columns))
        seeds = self.seeds.astype(jnp.int32)[..., None, None]
        stays = kept(self.rate, seeds, rows, columns)
        return jnp.where(stays, weights / (1 - self.rate), 0)


def standing(run: Any, x: Array) -> Array:
    """Where those stand that `x` counts from 0; of the three numbers of a run, the first is where
    the first `count` begin, the last where all others do.
    """
    first, count, other = run[0], run[1], run[2]
    return x + jnp.where(x < count, first, other - count)


def kept(rate: float, seed: Array, rows: Array, columns: Array) -> Array:
    """Which weights stay: a hash of the seed and both positions, equal on all platforms.

    Args:
        rate: the probability to drop, a multiple of 2^-24.
        seed: int32, of the example and head.
        rows, columns: int32 positions from 0, of shapes that broadcast with the seed's.
    """
    return bits(seed, rows, columns) >= round(rate * 2**24)


def bits(seed: Array, rows: Array, columns: Array) -> Array:
    """24 random bits as int32, where `rows` meet `columns`."""
    return _shift(_mixed(_mixed(seed ^ _mixed(rows)) ^ _mixed(~columns)), 8)


def _mixed(x: Array) -> Array:
    """A bijection of 32 bits whose every output bit depends on every input bit ("lowbias32",
    Wellons 2018). Signed, since TPUs lack unsigned comparisons; products wrap around alike.
    """
    x = (x ^ _shift(x, 16)) * jnp.int32(0x7FEB352D)
    x = (x ^ _shift(x, 15)) * jnp.int32(0x846CA68B - 2**32)
    return x ^ _shift(x, 16)


def _shift(x: Array, count: int) -> Array:
    return lax.shift_right_logical(x, jnp.full_like(x, count))


def described(spec: Spec, q: Array, k: Array, extras: Extras) -> str:
    """The shape in a word, for messages."""
    given = [name for name, x in zip(Extras._fields, extras, strict=True) if x is not None]
    static = {"left": spec.left, "right": spec.right, "soft_cap": spec.soft_cap}
    given += [f"{name}={value}" for name, value in static.items() if value is not None]
    shapes = f"q {list(q.shape)} k {list(k.shape)} {q.dtype}"
    return " ".join([shapes, *given])
