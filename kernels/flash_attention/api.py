"""The attention that callers use: checks its input, chooses by platform, owns the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.kernels.dispatch import decided, dispatch, expected_device
from jaxdl.kernels.flash_attention import cpu, few, gpu, reference, tpu
from jaxdl.kernels.flash_attention.spec import Extras, Spec, described

MODULES = {"cpu": cpu, "gpu": gpu, "tpu": tpu, "reference": reference}
KEEPING = {"cpu": few}
"""What a CPU takes in place of its own where the weights are few."""


def flash_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    offset: int | Array | None = None,
    window: int | tuple[int | None, int | None] | None = None,
    bias: Array | None = None,
    q_segments: Array | None = None,
    kv_segments: Array | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    seeds: Array | None = None,
    runs: Array | None = None,
    return_lse: bool = False,
    device: str = "",
    impl: str | None = None,
) -> Any:
    """`softmax(cap(scale q k^T) + bias) v`, without its [T, S] matrix in memory.

    H / G consecutive heads of queries share one of keys and values (arXiv:2305.13245). The sums are
    in float32. A query that sees nothing gets zeros. Gradients are of reverse mode, of any order;
    those of gradients hold all logits in memory.

    Args:
        q, k, v: float, of one dtype.
        causal: query t sees the keys up to position t + offset.
        offset: of queries among keys; None is S - T, so that the last query sees the last key. With
            a cache of keys, the position of the first query: an int32 scalar that may be traced.
        window: how far a query sees to the left and to the right; one number is for both.
        bias: added to the logits; -inf hides. Its gradient is blockwise XLA's on every platform.
        q_segments, kv_segments: ids; a query sees the keys of its own segment.
        soft_cap: bounds logits to +-soft_cap, by tanh.
        scale: None is 1 / sqrt(K).
        dropout: the probability to drop a weight; `seeds` (see `seeds_of`) and positions decide.
        runs: for dropout, the positions of queries and of keys that are parts of longer ones, each
            part one run or two: where the first begins, how long it is, and where the second does.
            None: both count from 0.
        return_lse: also returns the logarithm of the softmax's denominator, -inf where nothing is
            seen.
        device: device kind, by which sizes of blocks are chosen; "" is that of the surrounding
            mesh, or of the default device.
        impl: forces one of reference, cpu, gpu, tpu; None picks.

    Shapes: q [B, T, H, K], k [B, S, G, K], v [B, S, G, V], bias [1 or B, 1 or H, 1 or T, S],
        q_segments [B, T], kv_segments [B, S], seeds [B, H] uint32, runs [2, 3] int32 ->
        [B, T, H, V], and the log-sum-exp [B, H, T] f32.

    Raises:
        InputError: shapes or options that do not fit, or an `impl` that cannot run them.
    """
    spec, extras = _asked(
        *(q, k, v, causal, offset, window, bias, q_segments, kv_segments),
        *(soft_cap, scale, dropout, seeds, runs, device),
    )
    y, lse = _attention(spec, impl, q, k, v, extras)
    return (y, lse) if return_lse else y


def attention_gradients(
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    lse: Array,
    dy: Array,
    *,
    impl: str | None = None,
    **options: Any,
) -> tuple[Array, Array, Array]:
    """What these keys add to the gradients of an attention over more of them, for rings.

    The parts of dq are to be summed, so that all are in float32 (of float64 in it).

    Args:
        q, k, v: the queries, and some of the keys and values.
        y, lse, dy: result, log-sum-exp and cotangent over all keys.
        impl, **options: those of `flash_attention` for these keys, but for `return_lse`; a bias
            gets no gradient.

    Shapes: as `flash_attention`; y and dy [B, T, H, V], lse [B, H, T] f32 -> dq, dk, dv.

    Raises:
        InputError: as `flash_attention`.
    """
    spec, extras = _asked(q, k, v, **options)
    given = q, k, v, extras, y, lse, dy, jnp.zeros_like(lse)
    return _gradients(replace(spec, part=True), impl, False, *given)[:3]


def _asked(
    q: Array,
    k: Array,
    v: Array,
    causal: bool = False,
    offset: int | Array | None = None,
    window: int | tuple[int | None, int | None] | None = None,
    bias: Array | None = None,
    q_segments: Array | None = None,
    kv_segments: Array | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    seeds: Array | None = None,
    runs: Array | None = None,
    device: str = "",
) -> tuple[Spec, Extras]:
    """The options of `flash_attention`, checked, as implementations take them."""
    _check_shapes(q, k, v)
    seeds, runs = (seeds, runs) if dropout else (None, None)
    runs = None if runs is None else jnp.asarray(runs, jnp.int32)
    extras = Extras(bias, q_segments, kv_segments, seeds, runs=runs)
    _check_extras(q, k, extras, dropout, soft_cap)
    left, right = window if isinstance(window, tuple) else (window, window)
    if causal:
        right = 0 if right is None else min(right, 0)
    if offset is None:
        offset = k.shape[1] - q.shape[1]
    if left is right is None:
        offset = 0
    if not isinstance(offset, int):
        extras, offset = extras._replace(offset=jnp.asarray(offset, jnp.int32)), None
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    device = device or expected_device().device_kind
    return Spec(scale, left, right, soft_cap, dropout, offset, device), extras


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    spec: Spec, impl: str | None, q: Array, k: Array, v: Array, extras: Extras
) -> tuple[Array, Array]:
    return _run("forward", spec, (), impl, q, k, v, extras)


def _forward(spec: Spec, impl: str | None, *given: Any) -> tuple[Any, tuple]:
    q, k, v, extras = jax.tree.map(lambda x: x.value, given, is_leaf=_is_primal)
    # Whether a gradient is wanted is static, so it travels in the structure: () or None.
    bias = given[3].bias
    wanted = () if bias is not None and bias.perturbed else None
    if decided(impl) == "cpu" and few.fits(q, k):
        y, lse, saved = _run("forward", spec, (), "cpu", q, k, v, extras, modules=KEEPING)
    else:
        y, lse = _attention(spec, impl, q, k, v, extras)
        saved = lse
    return (y, lse), (q, k, v, extras, y, lse, saved, wanted)


def _backward(spec: Spec, impl: str | None, residuals: tuple, cotangents: tuple) -> tuple:
    *given, y, lse, saved, wanted = residuals
    dy, dlse = (
        jnp.zeros(x.shape, x.dtype) if isinstance(dx, jax.custom_derivatives.SymbolicZero) else dx
        for x, dx in zip((y, lse), cotangents, strict=True)
    )
    static = spec, impl, wanted is not None
    *gradients, dbias = _gradients(*static, *given, y, saved, dy, dlse)
    return (*gradients, jax.tree.map(lambda x: None, given[3])._replace(bias=dbias))


# Symbolic zeros tell the forward pass whether the bias wants a gradient, which costs memory.
_attention.defvjp(_forward, _backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gradients(spec: Spec, impl: str | None, wanted_bias: bool, *args: Any) -> tuple:
    """The cotangents of q, k, v, and of the bias where it is wanted."""
    if isinstance(args[5], few.Weights):
        return _run("backward", spec, (wanted_bias,), "cpu", *args, modules=KEEPING)
    return _run("backward", spec, (wanted_bias,), impl, *args)


def _gradients_forward(spec: Spec, impl: str | None, wanted_bias: bool, *args: Any) -> tuple:
    return _gradients(spec, impl, wanted_bias, *args), args


def _gradients_backward(
    spec: Spec, impl: str | None, wanted_bias: bool, args: tuple, cotangents: tuple
) -> tuple:
    # Gradients of gradients are rare: those of the reference serve everywhere. It makes y and what
    # was saved anew, so that these pass nothing on, unless they are of more keys than it is given.
    del impl
    q, k, v, extras, *rest = args

    def again(q, k, v, bias, *rest):
        return reference.backward(spec, wanted_bias, q, k, v, extras._replace(bias=bias), *rest)

    pull = jax.vjp(again, q, k, v, extras.bias, *rest)[1]
    dq, dk, dv, dbias, *rest = pull(cotangents)
    dextras = jax.tree.map(lambda x: None, extras)._replace(bias=dbias)
    return dq, dk, dv, dextras, *rest


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _run(
    name: str,
    spec: Spec,
    static: tuple,
    impl: str | None,
    *args: Any,
    modules: Mapping[str, Any] = MODULES,
) -> Any:
    """The function `name` of this platform's module."""
    q, k, _, extras = args[:4]
    refusals = {
        who: module.refuses(spec, q, k, extras, *static)
        for who, module in modules.items()
        if hasattr(module, "refuses")
    }
    functions = {
        who: partial(_traced, getattr(module, name), spec, static)
        for who, module in modules.items()
    }
    shape = described(spec, q, k, extras)
    return dispatch(f"flash_attention {name}", shape, functions, refusals, impl, *args)


@partial(jax.jit, static_argnums=range(3), inline=True)
def _traced(function: Any, spec: Spec, static: tuple, *args: Any) -> Any:
    """`function`, of which jit's cache keeps the trace for all layers of a shape."""
    return function(spec, *static, *args)


def _is_primal(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.CustomVJPPrimal)


def _check_shapes(q: Array, k: Array, v: Array) -> None:
    if not q.ndim == k.ndim == v.ndim == 4:
        raise InputError(
            f"attention takes q [B, T, H, K], k and v [B, S, G, K], not {q.shape}, {k.shape} and "
            f"{v.shape}; without a batch, give it one of 1: x[None]."
        )
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise InputError(
            f"q {q.shape}, k {k.shape} and v {v.shape} disagree; k and v must have one batch, "
            f"length and number of heads, and q k's batch and head size: "
            f"k {(q.shape[0], *k.shape[1:3], q.shape[3])} would fit."
        )
    if min(*q.shape, *k.shape, *v.shape) < 1:
        raise InputError(f"attention over nothing: q {q.shape}, k {k.shape}, v {v.shape}.")
    heads, groups = q.shape[2], k.shape[2]
    if heads % groups:
        fits = max(g for g in range(1, groups + 1) if heads % g == 0)
        raise InputError(
            f"{heads} heads of queries are no multiple of {groups} of keys; {fits} would be."
        )
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise InputError(
            f"q, k and v must have one floating dtype, not {q.dtype}, {k.dtype} and {v.dtype}; "
            f"try {jnp.result_type(q, k, v, jnp.bfloat16)} for all."
        )


def _check_extras(q: Array, k: Array, extras: Extras, dropout: float, cap: float | None) -> None:
    (batch, time, heads, _), keys = q.shape, k.shape[1]
    fits = {
        "bias": [(1, batch), (1, heads), (1, time), (keys,)],
        "q_segments": [(batch,), (time,)],
        "kv_segments": [(batch,), (keys,)],
        "seeds": [(batch,), (heads,)],
        "runs": [(2,), (3,)],
    }
    for name, dims in fits.items():
        x = getattr(extras, name)
        ok = x is None or (len(x.shape) == len(dims) and all(map(_among, x.shape, dims)))
        if not ok:
            full = tuple(dim[-1] for dim in dims)
            raise InputError(f"{name} {x.shape} does not fit q {q.shape}; {full} would.")
    if (extras.q_segments is None) != (extras.kv_segments is None):
        raise InputError(
            "q_segments and kv_segments come together; give the same ids twice in self-attention."
        )
    if not 0 <= dropout < 1 or (dropout and extras.seeds is None):
        raise InputError(
            f"dropout={dropout} must lie in [0, 1), and needs seeds: "
            "seeds_of(key, batch, heads) makes them."
        )
    if cap is not None and cap <= 0:
        raise InputError(f"soft_cap={cap} must be above 0, or None for no cap.")


def _among(size: int, sizes: tuple[int, ...]) -> bool:
    return size in sizes
