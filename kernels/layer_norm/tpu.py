"""Normalisation on TPUs (Pallas, Mosaic): a block of whole rows at a time, read once.

Statistics are computed again in the backward pass, where the row is at hand anyway, so that nothing
but h is kept for it. Each core adds the gradients of scale and bias up in a block that stays in its
memory, as 8 rows of partial sums, in the order of the rows.

N rows, D features, R rows of a block.
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
from jaxdl.kernels.layer_norm.reference import WEIGHTS, Norm, input_gradient

LANES, SUBLANES, TILE = 128, 8, 32
"""Of a vector register of float32; bytes of a column of one tile of any dtype."""
PIECE = 2**15
"""Numbers of a block that are worked on at a time."""
FEWEST = 16
"""Rows of them, a tile of bfloat16."""


def refusal(x: Array, device: str) -> str | None:
    """Why rows like x [..., D] cannot be normalised here; None where they can."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return f"TPUs load float32 and bfloat16, not {x.dtype.name}"
    if x.shape[-1] % LANES:
        return f"XLA is faster at {x.shape[-1]} features, which are no multiple of {LANES}"
    if x.shape[-1] > (most := blocks(TPU, device).backward // TILE):
        return f"of {x.shape[-1]} features not even {SUBLANES} rows fit a block; of {most} they do"
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
    count, block, whole = _tiling(rows, blocks(TPU, device).forward)
    spec = pl.BlockSpec(block, lambda i: (i, 0))
    out = {"y": jax.ShapeDtypeStruct(rows["x"].shape, norm.dtype)}
    if residual is not None:
        out["h"] = jax.ShapeDtypeStruct(rows["x"].shape, jnp.result_type(x, residual))
    found = pl.pallas_call(
        partial(_forward_kernel, norm=norm),
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
) -> tuple[Array, ...]:
    """As the reference."""
    rows = {"h": h, "dy": dy} if dh is None else {"h": h, "dy": dy, "dh": dh}
    rows = {name: a.reshape(-1, h.shape[-1]) for name, a in rows.items()}
    size, features = rows["h"].shape
    count, block, whole = _tiling(rows, blocks(TPU, device).backward)
    weights = WEIGHTS[norm.center]
    # Chips of two cores halve the first dimension of the grid; an odd block is done twice.
    cores = min(count, 2)
    steps = math.ceil(count / cores)
    spec = pl.BlockSpec(block, lambda core, i: (jnp.minimum(core * steps + i, count - 1), 0))
    dx = jax.ShapeDtypeStruct((size, features), h.dtype)
    sums = jax.ShapeDtypeStruct((cores, SUBLANES, features), jnp.float32)
    held = pl.BlockSpec((None, SUBLANES, whole[1]), lambda core, i: (core, 0, 0))
    found = pl.pallas_call(
        partial(_backward_kernel, norm=norm, size=size),
        out_shape={"dx": dx, **dict.fromkeys(weights, sums)},
        grid=(cores, steps),
        in_specs=[dict.fromkeys(rows, spec), pl.BlockSpec(whole, lambda core, i: (0, 0))],
        out_specs={"dx": spec, **dict.fromkeys(weights, held)},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="norm_backward",
    )(rows, scale[None])
    return found["dx"].reshape(h.shape), *(found[name].sum((0, 1)) for name in weights)


def _forward_kernel(rows: dict, weights: dict, out: dict, *, norm: Norm) -> None:
    weights = {name: weight[...].astype(jnp.float32) for name, weight in weights.items()}
    for at in _pieces(rows["x"].shape):
        x = rows["x"][at, :]
        if "residual" in rows:
            x = _sum(x, rows["residual"][at, :], out["h"].dtype)
            out["h"][at, :] = x
        y = _standardised(x, norm)[0] * weights["scale"]
        if "bias" in weights:
            y += weights["bias"]
        out["y"][at, :] = y.astype(norm.dtype)


def _backward_kernel(rows: dict, scale: Any, out: dict, *, norm: Norm, size: int) -> None:
    sums = [out[name] for name in ("scale", "bias") if name in out]

    @pl.when(pl.program_id(1) == 0)
    def _():
        for one in sums:
            one[...] = jnp.zeros(one.shape, jnp.float32)

    weight, block = scale[...].astype(jnp.float32), rows["h"].shape[0]
    first = (pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)) * block
    full = size == pl.num_programs(0) * pl.num_programs(1) * block
    for at in _pieces(rows["h"].shape):
        unit, rate = _standardised(rows["h"][at, :], norm)
        dy = rows["dy"][at, :].astype(jnp.float32)
        dx = input_gradient(unit, rate, dy * weight, norm)
        if "dh" in rows:
            dx += rows["dh"][at, :].astype(jnp.float32)
        out["dx"][at, :] = dx.astype(out["dx"].dtype)
        if not full:
            row = first + at.start + jax.lax.broadcasted_iota(jnp.int32, dy.shape, 0)
            unit, dy = jnp.where(row < size, unit, 0.0), jnp.where(row < size, dy, 0.0)
        for one, values in zip(sums, (dy * unit, dy), strict=False):
            one[...] += _eight_rows(values)


def _standardised(h: Array, norm: Norm) -> tuple[Array, Array]:
    """As the reference, of a block in any dtype."""
    h = h.astype(jnp.float32)
    if norm.center:
        h -= jnp.mean(h, 1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.mean(h * h, 1, keepdims=True) + norm.eps)
    return h * rate, rate


def _sum(x: Array, residual: Array, dtype: Any) -> Array:
    """`x + residual` as rounded once; some TPUs add in float32 only."""
    return (x.astype(jnp.float32) + residual.astype(jnp.float32)).astype(dtype)


def _pieces(block: tuple[int, int]) -> list[Any]:
    """Rows of a block few enough that what is computed of them stays in registers."""
    rows, features = block
    step = max(PIECE // features // FEWEST, 1) * FEWEST
    return [pl.ds(start, min(step, rows - start)) for start in range(0, rows, step)]


def _eight_rows(x: Array) -> Array:
    """Sums of every eighth row of x: [R, E] -> [8, E]; nothing moves inside a register."""
    return x.reshape(-1, SUBLANES, x.shape[1]).sum(0)


def _tiling(rows: dict[str, Array], most: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """How many blocks of at most so many bytes, their shape, and that of a whole weight."""
    size, features = next(iter(rows.values())).shape
    widths = [a.dtype.itemsize for a in rows.values()]
    tile = TILE // min(widths)
    fit = most // (features * max(widths) * tile)
    block = min(max(fit, 1), math.ceil(size / tile)) * tile
    return math.ceil(size / block), (block, features), (1, features)
