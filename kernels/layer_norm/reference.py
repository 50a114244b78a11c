"""Layer and RMS normalisation in plain jax.numpy, and their gradients: what all others are held to.

Shapes: x, residual, y and h [..., D]; scale and bias [D].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Norm:
    """What is computed, apart from the arrays."""

    eps: float
    center: bool
    """Whether the mean is taken off: layer normalisation; without it, RMS normalisation."""
    dtype: Any
    """Of y."""


WEIGHTS = {True: ("scale", "bias"), False: ("scale",)}
"""What a normalisation that centers has, and one that does not."""


def forward(
    x: Array, residual: Array | None, scale: Array, bias: Array | None, norm: Norm
) -> tuple[Array, Array]:
    """`y = (h - mean) / sqrt(var + eps) * scale + bias` of `h = x + residual`; y and h.

    h has the dtype of the sum, and y is made of h as it is then rounded.
    """
    h = x if residual is None else x + residual
    unit, _ = standardised(_wide(h), norm)
    y = unit * along(scale, h)
    if bias is not None:
        y = y + along(bias, h)
    return y.astype(norm.dtype), h


def backward(h: Array, dy: Array, dh: Array | None, scale: Array, norm: Norm) -> tuple[Array, ...]:
    """The cotangents of h, which is that of x and of the residual, of the scale and of the bias
    where rows are centered.

    `dh` is that of h as a result of its own. Those of scale and bias are of the dtype in which the
    statistics are computed.
    """
    unit, rate = standardised(_wide(h), norm)
    dy = _wide(dy)
    dx = input_gradient(unit, rate, dy * along(scale, h), norm)
    if dh is not None:
        dx = dx + dh
    rows = tuple(range(h.ndim - 1))
    sums = (dy * unit).sum(rows), dy.sum(rows)
    return dx.astype(h.dtype), *sums[: len(WEIGHTS[norm.center])]


def standardised(h: Array, norm: Norm) -> tuple[Array, Array]:
    """`(h - mean) / sqrt(var + eps)` of float32 rows, and `1 / sqrt(var + eps)` [..., 1]."""
    if norm.center:
        h = h - h.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + norm.eps)
    return h * rate, rate


def input_gradient(unit: Array, rate: Array, dunit: Array, norm: Norm) -> Array:
    """The cotangent of h from that of `unit`: what changes mean or length of a row is taken off."""
    dx = dunit - unit * (dunit * unit).mean(-1, keepdims=True)
    if norm.center:
        dx = dx - dunit.mean(-1, keepdims=True)
    return dx * rate


def along(weight: Array, x: Array) -> Array:
    """`weight` [D] with as many dimensions as x, in the dtype of the statistics of x."""
    return _wide(weight).reshape((1,) * (x.ndim - 1) + weight.shape)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
