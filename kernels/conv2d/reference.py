"""The convolution and its two gradients by `lax.conv_general_dilated`: what every other is held to.

Shapes: x [B, H, W, C], w [K, L, C, O], y and dy [B, H', W', O].
"""

from __future__ import annotations

import jax
from jax import Array

NAMES = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
"""Zeros before and after, of the height and of the width."""


def forward(x: Array, w: Array, *, stride: Pair, padding: Padding) -> Array:
    """`y[h, v, o] = sum over i, j, c of x[s h + i - p, t v + j - q, c] w[i, j, c, o]`."""
    return jax.lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=NAMES)


def input_gradient(dy: Array, w: Array, *, size: Pair, stride: Pair, padding: Padding) -> Array:
    """The cotangent of an x of height and width `size`."""
    x = jax.ShapeDtypeStruct((dy.shape[0], *size, w.shape[2]), dy.dtype)
    pull = jax.linear_transpose(lambda x: forward(x, w, stride=stride, padding=padding), x)
    return pull(dy)[0]


def kernel_gradient(x: Array, dy: Array, *, size: Pair, stride: Pair, padding: Padding) -> Array:
    """The cotangent of a w of height and width `size`."""
    w = jax.ShapeDtypeStruct((*size, x.shape[-1], dy.shape[-1]), dy.dtype)
    pull = jax.linear_transpose(lambda w: forward(x, w, stride=stride, padding=padding), w)
    return pull(dy)[0]
