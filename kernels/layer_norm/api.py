"""The normalisations that callers use: they choose by platform and own the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.checks import check_shapes, letters
from jaxdl.core.errors import InputError
from jaxdl.kernels.dispatch import dispatch
from jaxdl.kernels.layer_norm import gpu, reference, tpu
from jaxdl.kernels.layer_norm.reference import Norm

Kinds = tuple[str, ...]
Spread = Callable[[Callable, Kinds, Kinds], Callable]
"""Makes of a function of `rows` [..., D] and `weight`s [D] one that runs on shards of the rows. A
result of kind `sums` [1, ..., 1, D] is laid out as rows are: a line for each shard."""


@dataclass(frozen=True)
class How:
    """What is not an array."""

    norm: Norm
    device: str
    impl: str | None
    spread: Spread | None


def layer_norm(
    x: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    residual: Array | None = None,
    eps: float = 1e-5,
    dtype: Any = None,
    device: str = "",
    impl: str | None = None,
    spread: Spread | None = None,
) -> Array | tuple[Array, Array]:
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last dimension (arXiv:1607.06450).

    Statistics are of float32. With a `residual`, `h = x + residual` is normalised and returned too.
    Reverse-mode gradients only, of any order; those of scale and bias are added in a fixed order.

    Args:
        x, residual: of one shape.
        scale, bias: None is 1 and 0.
        eps: is added to the variance.
        dtype: of the result; None is that of x, residual, scale and bias together.
        device: device kind, by which block sizes are chosen.
        impl: `reference`, `tpu` or `gpu`; None is the platform's own.
        spread: runs it on several devices, in both directions.

    Shapes: x and residual [..., D], scale and bias [D] -> y [..., D], or y and h.

    Raises:
        InputError: shapes disagree, x is no float, or `impl` cannot run this.
    """
    return _normalise(x, residual, scale, bias, eps, True, dtype, device, impl, spread)


def rms_norm(
    x: Array,
    scale: Array | None = None,
    *,
    residual: Array | None = None,
    eps: float = 1e-6,
    dtype: Any = None,
    device: str = "",
    impl: str | None = None,
    spread: Spread | None = None,
) -> Array | tuple[Array, Array]:
    """`x / sqrt(mean(x^2) + eps) * scale` over the last dimension (arXiv:1910.07467).

    All else is as in `layer_norm`.
    """
    return _normalise(x, residual, scale, None, eps, False, dtype, device, impl, spread)


def _normalise(x, residual, scale, bias, eps, center, dtype, device, impl, spread):
    _check(x, residual, scale, bias)
    given = [a for a in (x, residual, scale, bias) if a is not None]
    norm = Norm(float(eps), center, jnp.dtype(dtype or jnp.result_type(*given)))
    if scale is None:
        scale = jnp.ones(x.shape[-1:], jnp.float32)
    y, h = _norm(x, residual, scale, bias, How(norm, device, impl, spread))
    return y if residual is None else (y, h)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _norm(
    x: Array, residual: Array | None, scale: Array, bias: Array | None, how: How
) -> tuple[Array, Array | None]:
    """y and, with a residual, h."""
    kinds = ("rows",) if residual is None else ("rows", "rows")
    found = _run("forward", kinds, how, rows=(x, residual), weights=(scale, bias))
    return (*found, None)[:2]


def _forward(x, residual, scale, bias, how):
    y, h = _norm(x, residual, scale, bias, how)
    # Of what the backward pass does not need it still has to know the dtype.
    like = [None if a is None else jnp.zeros(0, a.dtype) for a in (x, residual, bias)]
    return (y, h), (x if h is None else h, scale, like)


def _backward(how, residuals, cotangents):
    (h, scale, (x, residual, bias)), (dy, dh) = residuals, cotangents
    dx, dscale, dbias = (*_gradient(h, dy, dh, scale, how), None)[:3]
    return tuple(
        None if like is None else gradient.astype(like.dtype)
        for gradient, like in ((dx, x), (dx, residual), (dscale, scale), (dbias, bias))
    )


_norm.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _gradient(h: Array, dy: Array, dh: Array | None, scale: Array, how: How) -> tuple[Array, ...]:
    """The cotangents of h, of the scale and, where rows are centered, of the bias."""
    results = ("rows", *("sums",) * len(reference.WEIGHTS[how.norm.center]))
    dx, *sums = _run("backward", results, how, rows=(h, dy, dh), weights=(scale,))
    return dx, *(a.sum(range(a.ndim - 1)) for a in sums)


def _gradient_forward(h, dy, dh, scale, how):
    return _gradient(h, dy, dh, scale, how), (h, dy, dh, scale)


def _gradient_backward(how, arguments, cotangents):
    # Gradients of gradients are rare: those of the reference serve everywhere.
    return jax.vjp(partial(reference.backward, norm=how.norm), *arguments)[1](cotangents)


_gradient.defvjp(_gradient_forward, _gradient_backward)


def _run(name: str, results: Kinds, how: How, rows: tuple, weights: tuple) -> tuple[Array, ...]:
    """The function `name` of this platform's module, on each shard."""
    given, tree = jax.tree.flatten((rows, weights))
    many = len(jax.tree.leaves(rows))
    kinds = ("rows",) * many + ("weight",) * (len(given) - many)

    def local(*args):
        rows, weights = jax.tree.unflatten(tree, args)
        found = _by_platform(name, how, rows, weights)
        lines = (1,) * (args[0].ndim - 1)
        return tuple(
            a.reshape(*lines, -1) if kind == "sums" else a
            for a, kind in zip(found, results, strict=False)
        )

    return (how.spread(local, kinds, results) if how.spread else local)(*given)


def _by_platform(name: str, how: How, rows: tuple, weights: tuple) -> tuple[Array, ...]:
    x, own = rows[0], {"tpu": tpu, "gpu": gpu}
    summed = name == "forward" and rows[1] is not None
    asked = how.device, "with residual" if summed else name, how.norm.center
    made = {
        who: partial(getattr(module, name), norm=how.norm, device=how.device)
        for who, module in own.items()
    }
    return dispatch(
        "layer_norm" if how.norm.center else "rms_norm",
        f"{x.dtype.name}{list(x.shape)}",
        {**made, "reference": partial(getattr(reference, name), norm=how.norm)},
        {who: module.refusal(x, *asked) for who, module in own.items()},
        how.impl,
        *rows,
        *weights,
    )


def _check(x: Array, residual: Array | None, scale: Array | None, bias: Array | None) -> None:
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"x is {x.dtype.name}{list(x.shape)}; there must be features, of floats.")
    whole = f"{letters(x.ndim - 1)} D".strip()
    arrays = {"x": x, "residual": residual, "scale": scale, "bias": bias}
    check_shapes(arrays, x=whole, residual=whole, scale="D", bias="D")
