"""How a sequence model knows where a token stands: vectors to add to it, or queries and keys
turned.

T positions `now` [T] int32, D width, H heads, K head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.nn.layers import Embed, embed

BASE = 10_000.0


def learned(rows: int, width: int, *, std: float, name: str | None = None) -> Embed:
    """A table with a learned vector for each of `rows` positions (Gehring et al. 2017,
    arXiv:1705.03122, section 3.1).

    Shapes: now [T] -> [T, width].
    """
    return embed(rows, width, ("pos", "embed"), std=std, name=name)


def sinusoidal(rows: int, width: int, *, std: float, name: str | None = None) -> Callable:
    """`std * sinusoids(now, width)`, for any number of positions and without parameters.

    Vaswani et al. multiply their embedding by sqrt(D), which gives its entries a spread of 1; where
    that is `std`, so must the sinusoids be smaller.

    Shapes: now [T] -> [T, width].
    """
    del rows, name
    return partial(_scaled, width=width, std=std)


def _scaled(now: Array, width: int, std: float) -> Array:
    return std * sinusoids(now, width)


def sinusoids(now: Array, width: int) -> Array:
    """sin(p / 10000^(2i / D)) at entry 2i and the cosine at 2i + 1 (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.5); an odd width ends with a sine.

    Shapes: now [T] -> [T, width] float32.
    """
    angle = _angles(now, (width + 1) // 2, width)
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return both.reshape(len(now), -1)[:, :width]


@dataclass(frozen=True)
class Rotary:
    """Turns entries i and i + K/2 of a query or key at position p by the angle p / base^(2i / K).

    Products of queries and keys then depend on how far apart they are, not on where. Su et al.
    2021 (RoFormer, arXiv:2104.09864, section 3.2) pair entries 2i and 2i + 1, which is another
    order of the columns of the projections.

    Shapes: x [B, T, H, K], now [T] -> [B, T, H, K].

    Raises: InputError where K is odd.
    """

    base: float = BASE

    def __call__(self, x: Array, now: Array) -> Array:
        """`x` turned, computed in float32."""
        size = x.shape[-1]
        if size % 2:
            raise InputError(
                f"rotary positions turn pairs of entries, but a head has {size}; "
                "choose width and heads so that width / heads is even."
            )
        angle = _angles(now, size // 2, size, self.base)[None, :, None]
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def _angles(now: Array, count: int, width: int, base: float = BASE) -> Array:
    """p / base^(2i / width) of i < count. Shapes: now [T] -> [T, count] float32."""
    rate = base ** (-2 * jnp.arange(count, dtype=jnp.float32) / width)
    return now.astype(jnp.float32)[:, None] * rate[None]
