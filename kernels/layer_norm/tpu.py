"""Normalisation on TPUs (Pallas, Mosaic): a block of whole rows at a time, read once.

Statistics are computed again in the backward pass, where the row is at hand anyway, so that nothing
but h is kept for it. Features are padded to whole vector registers and masked here: what lies
beyond the array is undefined. Each core adds the gradients of scale and bias up in a block that
stays in its memory, as 8 rows of partial sums, in the order of the rows.

N rows, D features, E those padded to a multiple of 128, R rows of a block.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxdl.kernels.layer_norm.blocks import TPU, blocks
from jaxdl.kernels.layer_norm.reference import Norm

LANES, SUBLANES, TILE = 128, 8, 16
"""Of a vector register of float32, and rows of a tile of bfloat16."""


def refusal(x: Array, device: str) -> str | None:
    """Why rows like x [..., D] cannot be normalised here; None where they can."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return f"TPUs load float32 and bfloat16, not {x.dtype.name}"
    most = blocks(TPU, device).backward // TILE
    if x.shape[-1] > most:
        return f"of {x.shape[-1]} features {TILE} rows do not fit a block; of {most} they would"
    return "there are no rows" if x.size == 0 else None


def forward(
    x: Array,
    residual: Array | None,
    scale: Array,
    bias: Array | None,
    norm: Norm,
    device: str = "",
    interpret: Any = False,
) -> tuple[Array, Array]:
    """As the reference."""
    rows = {"x": x} if residual is None else {"x": x, "residual": residual}
    rows = {name: a.reshape(-1, x.shape[-1]) for name, a in rows.items()}
    weights = {"scale": scale[None]} if bias is None else {"scale": scale[None], "bias": bias[None]}
    count, block, whole = _tiling(rows["x"].shape, blocks(TPU, device).forward)
    spec = pl.BlockSpec(block, lambda i: (i, 0))
    out = {"y": jax.ShapeDtypeStruct(rows["x"].shape, norm.dtype)}
    if residual is not None:
        out["h"] = jax.ShapeDtypeStruct(rows["x"].shape, jnp.result_type(x, residual))
    found = pl.pallas_call(
        partial(_forward_kernel, norm=norm, size=x.shape[-1]),
        out_shape=out,
        grid=(count,),
        in_specs=[
            dict.fromkeys(rows, spec),
            dict.fromkeys(weights, pl.BlockSpec(whole, lambda i: (0, 0))),
        ],
        out_specs=dict.fromkeys(out, spec),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="norm_forward",
    )(rows, weights)
    return found["y"].reshape(x.shape), found["h"].reshape(x.shape) if "h" in found else x


def backward(
    h: Array,
    dy: Array,
    dh: Array | None,
    scale: Array,
    norm: Norm,
    device: str = "",
    interpret: Any = False,
) -> tuple[Array, Array, Array]:
    """As the reference."""
    rows = {"h": h, "dy": dy} if dh is None else {"h": h, "dy": dy, "dh": dh}
    rows = {name: a.reshape(-1, h.shape[-1]) for name, a in rows.items()}
    size, features = rows["h"].shape
    count, block, whole = _tiling(rows["h"].shape, blocks(TPU, device).backward)
    # Chips of two cores halve the first dimension of the grid.
    cores = 2 - count % 2
    spec = pl.BlockSpec(block, lambda core, i: (core * (count // cores) + i, 0))
    dx = jax.ShapeDtypeStruct((size, features), h.dtype)
    sums = jax.ShapeDtypeStruct((cores, SUBLANES, features), jnp.float32)
    held = pl.BlockSpec((None, SUBLANES, whole[1]), lambda core, i: (core, 0, 0))
    found = pl.pallas_call(
        partial(_backward_kernel, norm=norm, shape=(size, features)),
        out_shape={"dx": dx, "scale": sums, "bias": sums},
        grid=(cores, count // cores),
        in_specs=[dict.fromkeys(rows, spec), pl.BlockSpec(whole, lambda core, i: (0, 0))],
        out_specs={"dx": spec, "scale": held, "bias": held},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="norm_backward",
    )(rows, scale[None])
    return found["dx"].reshape(h.shape), found["scale"].sum((0, 1)), found["bias"].sum((0, 1))


def _forward_kernel(rows: dict, weights: dict, out: dict, *, norm: Norm, size: int) -> None:
    x = rows["x"][...]
    if "residual" in rows:
        x = _sum(x, rows["residual"][...], out["h"].dtype)
        out["h"][...] = x
    y = _standardised(x, norm, size)[0] * weights["scale"][...].astype(jnp.float32)
    if "bias" in weights:
        y += weights["bias"][...].astype(jnp.float32)
    out["y"][...] = y.astype(norm.dtype)


def _backward_kernel(rows: dict, scale: Any, out: dict, *, norm: Norm, shape: tuple) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _():
        for name in ("scale", "bias"):
            out[name][...] = jnp.zeros(out[name].shape, jnp.float32)

    size, features = shape
    unit, rate = _standardised(rows["h"][...], norm, features)
    dy = _columns(rows["dy"][...].astype(jnp.float32), features)
    dunit = dy * _columns(scale[...].astype(jnp.float32), features)
    dx = dunit - unit * (jnp.sum(dunit * unit, 1, keepdims=True) / features)
    if norm.center:
        dx -= jnp.sum(dunit, 1, keepdims=True) / features
    dx *= rate
    if "dh" in rows:
        dx += rows["dh"][...].astype(jnp.float32)
    out["dx"][...] = dx.astype(out["dx"].dtype)
    block = dy.shape[0]
    if size % block:
        first = (pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)) * block
        there = first + jax.lax.broadcasted_iota(jnp.int32, dy.shape, 0) < size
        unit, dy = jnp.where(there, unit, 0.0), jnp.where(there, dy, 0.0)
    out["scale"][...] += _eight_rows(dy * unit)
    out["bias"][...] += _eight_rows(dy)


def _standardised(h: Array, norm: Norm, features: int) -> tuple[Array, Array]:
    """As the reference, with 0 beyond the features."""
    h = _columns(h.astype(jnp.float32), features)
    if norm.center:
        h = _columns(h - jnp.sum(h, 1, keepdims=True) / features, features)
    rate = jax.lax.rsqrt(jnp.sum(h * h, 1, keepdims=True) / features + norm.eps)
    return h * rate, rate


def _sum(x: Array, residual: Array, dtype: Any) -> Array:
    """`x + residual` as rounded once; some TPUs add in float32 only."""
    return (x.astype(jnp.float32) + residual.astype(jnp.float32)).astype(dtype)


def _columns(x: Array, features: int) -> Array:
    """x [R, E] with 0 beyond the features."""
    if x.shape[1] == features:
        return x
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) < features, x, 0.0)


def _eight_rows(x: Array) -> Array:
    """Sums of every eighth row of x: [R, E] -> [8, E]; nothing moves inside a register."""
    return x.reshape(-1, SUBLANES, x.shape[1]).sum(0)


def _tiling(shape: tuple[int, int], elements: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """How many blocks, their shape, and that of a whole weight."""
    rows, features = shape
    wide = math.ceil(features / LANES) * LANES
    fit = max(elements // wide // TILE, 1) * TILE
    block = min(fit, math.ceil(rows / TILE) * TILE)
    return math.ceil(rows / block), (block, wide), (1, wide)
