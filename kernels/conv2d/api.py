"""The convolution that callers use: chooses by platform, owns the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.kernels.conv2d import cpu, reference
from jaxdl.kernels.conv2d.reference import Padding, Pair


def conv2d(
    x: Array, w: Array, strides: Sequence[int], padding: str | Sequence[Pair], **rest: Any
) -> Array:
    """`jax.lax.conv_general_dilated`, of which it takes every argument.

    Plain two-dimensional convolutions of floats run as measured best on a CPU; all others, and
    those on other platforms, are lax's. Reverse-mode gradients only.

    Shapes: x [B, H, W, C], w [K, L, C, O] -> [B, H', W', O].
    """
    if not _is_plain(x, w, **rest):
        return jax.lax.conv_general_dilated(x, w, strides, padding, **rest)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], w.shape[:2], strides, padding)
    return _conv2d(x, w, tuple(strides), tuple(map(tuple, padding)))


def _is_plain(
    x: Array,
    w: Array,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> bool:
    if not x.ndim == w.ndim == 4 or dimension_numbers is None:
        return False
    names = jax.lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
    return (
        names == jax.lax.conv_dimension_numbers(x.shape, w.shape, reference.NAMES)
        and x.dtype == w.dtype
        and jnp.issubdtype(x.dtype, jnp.floating)
        and all(n == 1 for n in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == batch_group_count == 1
        and precision is preferred_element_type is None
        and x.shape[-1] == w.shape[-2]
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: Array, w: Array, stride: Pair, padding: Padding) -> Array:
    return _by_platform("forward", stride=stride, padding=padding)(x, w)


def _forward(x: Any, w: Any, stride: Pair, padding: Padding) -> tuple[Array, tuple]:
    # Whether a gradient is wanted is static, so it travels in the structure: () or None.
    wanted = tuple(() if a.perturbed else None for a in (x, w))
    return _conv2d(x.value, w.value, stride, padding), (x.value, w.value, wanted)


def _backward(stride: Pair, padding: Padding, residuals: tuple, dy: Any) -> tuple:
    x, w, (of_x, of_w) = residuals
    place = {"stride": stride, "padding": padding}
    dx = dw = None
    if of_x is not None:
        dx = _by_platform("input_gradient", size=x.shape[1:3], **place)(dy, w)
    if of_w is not None:
        dw = _by_platform("kernel_gradient", size=w.shape[:2], **place)(x, dy)
    return dx, dw


def _by_platform(name: str, **static: Any) -> Callable[..., Array]:
    """The function `name` of this platform's module."""
    return partial(
        jax.lax.platform_dependent,
        cpu=partial(getattr(cpu, name), **static),
        default=partial(getattr(reference, name), **static),
    )


# Symbolic zeros tell the forward pass whose gradient is wanted: not that of a model's input.
_conv2d.defvjp(_forward, _backward, symbolic_zeros=True)
