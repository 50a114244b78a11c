"""Normalisation on TPUs (Pallas, Mosaic): a block of whole rows at a time, read once.

Statistics are computed again in the backward pass, where the row is at hand anyway, so that nothing
but h is kept for it. Each core adds the gradients of scale and bias up in a block that stays in its
memory, as 8 rows of partial sums, in the order of the rows.

N rows, D features, R rows of a block.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxdl.kernels.layer_norm.blocks import TpuBlocks, on_tpu, row
from jaxdl.kernels.layer_norm.reference import WEIGHTS, Norm

LANES, SUBLANES, TILE = 128, 8, 32
"""Of a vector register of float32; bytes of a column of one tile of any dtype."""


def refusal(x: Array, device: str, name: str, center: bool) -> str | None:
    """Why rows like x [..., D] cannot be normalised here, or should not; None where they can.

    Args:
        x, device: the rows, and the kind of device.
        name: `forward`, `with residual` or `backward`.
        center: whether the mean is taken off.
    """
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return f"TPUs load float32 and bfloat16, not {x.dtype.name}"
    if x.shape[-1] % LANES:
        return f"XLA is faster at {x.shape[-1]} features, which are no multiple of {LANES}"
    told = row("tpu", name, center, device, x.shape[-1])
    if x.shape[-1] > (most := told.blocks["bytes"] // TILE):
        return f"of {x.shape[-1]} features not even {SUBLANES} rows fit a block; of {most} they do"
    if told.found.get("peer", math.inf) < told.found.get("value", 0):
        cycles = "XLA takes {peer:,} {unit} over {case}, the kernel {value:,}"
        return cycles.format(**told.found)
    return "there are no rows" if x.size == 0 else None


def forward(
    x: Array,
    residual: Array | None,
    scale: Array,
    bias: Array | None,
    norm: Norm,
    device: str = "",
    interpret: Any = False,
    blocks: TpuBlocks | None = None,
) -> tuple[Array, Array]:
    """As the reference; in these blocks, or in those of the table."""
    name = "forward" if residual is None else "with residual"
    blocks = blocks or on_tpu(name, norm.center, device, x.shape[-1])
    rows = {"x": x} if residual is None else {"x": x, "residual": residual}
    rows = {name: a.reshape(-1, x.shape[-1]) for name, a in rows.items()}
    weights = {"scale": scale[None]} if bias is None else {"scale": scale[None], "bias": bias[None]}
    count, block, whole = _tiling(rows, blocks.bytes)
    spec = pl.BlockSpec(block, lambda i: (i, 0))
    out = {"y": jax.ShapeDtypeStruct(rows["x"].shape, norm.dtype)}
    if residual is not None:
        out["h"] = jax.ShapeDtypeStruct(rows["x"].shape, jnp.result_type(x, residual))
    found = pl.pallas_call(
        partial(_forward_kernel, norm=norm, blocks=blocks),
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
    blocks: TpuBlocks | None = None,
) -> tuple[Array, ...]:
    """As the reference; in these blocks, or in those of the table."""
    blocks = blocks or on_tpu("backward", norm.center, device, h.shape[-1])
    rows = {"h": h, "dy": dy} if dh is None else {"h": h, "dy": dy, "dh": dh}
    rows = {name: a.reshape(-1, h.shape[-1]) for name, a in rows.items()}
    size, features = rows["h"].shape
    count, block, whole = _tiling(rows, blocks.bytes)
    weights = WEIGHTS[norm.center]
    # Chips of two cores halve the first dimension of the grid; an odd block is done twice.
    cores = min(count, 2)
    steps = math.ceil(count / cores)
    spec = pl.BlockSpec(block, lambda core, i: (jnp.minimum(core * steps + i, count - 1), 0))
    dx = jax.ShapeDtypeStruct((size, features), h.dtype)
    sums = jax.ShapeDtypeStruct((cores, SUBLANES, features), jnp.float32)
    held = pl.BlockSpec((None, SUBLANES, whole[1]), lambda core, i: (core, 0, 0))
    found = pl.pallas_call(
        partial(_backward_kernel, norm=norm, blocks=blocks, size=size),
        out_shape={"dx": dx, **dict.fromkeys(weights, sums)},
        grid=(cores, steps),
        in_specs=[dict.fromkeys(rows, spec), pl.BlockSpec(whole, lambda core, i: (0, 0))],
        out_specs={"dx": spec, **dict.fromkeys(weights, held)},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="norm_backward",
    )(rows, scale[None])
    return found["dx"].reshape(h.shape), *(found[name].sum((0, 1)) for name in weights)


def _forward_kernel(rows: dict, weights: dict, out: dict, *, norm: Norm, blocks: TpuBlocks) -> None:
    size, features = rows["x"].shape
    parts = _pieces(features, blocks.columns)
    for at in _pieces(size, blocks.rows):
        source = rows["x"]
        if "residual" in rows:
            source = out["h"]
            for part in parts:
                pair = (rows[name][at, part] for name in ("x", "residual"))
                source[at, part] = _sum(*pair, source.dtype)
        centered, rate = _standard(_reader(source, at, parts), parts, features, norm)
        for part in parts:
            y = centered(part) * rate * _wide(weights["scale"][:, part])
            if "bias" in weights:
                y += _wide(weights["bias"][:, part])
            out["y"][at, part] = y.astype(norm.dtype)


def _backward_kernel(
    rows: dict, scale: Any, out: dict, *, norm: Norm, blocks: TpuBlocks, size: int
) -> None:
    sums = [out[name] for name in ("scale", "bias") if name in out]

    @pl.when(pl.program_id(1) == 0)
    def _():
        for one in sums:
            one[...] = jnp.zeros(one.shape, jnp.float32)

    block, features = rows["h"].shape
    parts = _pieces(features, blocks.columns)
    first = (pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)) * block
    full = size == pl.num_programs(0) * pl.num_programs(1) * block
    for at in _pieces(block, blocks.rows):
        centered, rate = _standard(_reader(rows["h"], at, parts), parts, features, norm)
        dy = _reader(rows["dy"], at, parts)

        def unscaled(part, dy=dy):
            return dy(part) * _wide(scale[:, part])

        # As `reference.input_gradient`, by sums over parts of a row.
        slope = _mean((unscaled(part) * centered(part) for part in parts), features) * rate * rate
        shift = _mean(map(unscaled, parts), features) if norm.center else 0.0
        for part in parts:
            dx = (unscaled(part) - centered(part) * slope - shift) * rate
            if "dh" in rows:
                dx += _wide(rows["dh"][at, part])
            out["dx"][at, part] = dx.astype(out["dx"].dtype)
            unit, given = centered(part) * rate, dy(part)
            if not full:
                row = first + at.start + jax.lax.broadcasted_iota(jnp.int32, given.shape, 0)
                unit, given = (jnp.where(row < size, a, 0.0) for a in (unit, given))
            for one, values in zip(sums, (given * unit, given), strict=False):
                one[:, part] += _eight_rows(values)


def _reader(ref: Any, at: Any, parts: list[Any]) -> Callable[[Any], Array]:
    """Reads parts of some rows: a single one once, several each time anew, since registers would
    not hold them.
    """
    if len(parts) > 1:
        return lambda part: _wide(ref[at, part])
    held = _wide(ref[at, parts[0]])
    return lambda part: held


def _standard(
    h: Callable[[Any], Array], parts: list[Any], features: int, norm: Norm
) -> tuple[Callable[[Any], Array], Array]:
    """`h - mean` by parts, and `1 / sqrt(var + eps)` [R, 1]."""
    mean = _mean(map(h, parts), features) if norm.center else None

    def centered(part):
        return h(part) if mean is None else h(part) - mean

    var = _mean((jnp.square(centered(part)) for part in parts), features)
    return centered, jax.lax.rsqrt(var + norm.eps)


def _mean(values: Iterable[Array], features: int) -> Array:
    """Of whole rows, whose parts are `values` [R, C]: [R, 1]. Lanes are added only once."""
    lanes = (lane for x in values for lane in jnp.split(x, x.shape[1] // LANES, 1))
    return reduce(operator.add, lanes).sum(1, keepdims=True) * (1 / features)


def _wide(x: Array) -> Array:
    return x.astype(jnp.float32)


def _sum(x: Array, residual: Array, dtype: Any) -> Array:
    """`x + residual` as rounded once; some TPUs add in float32 only."""
    return (x.astype(jnp.float32) + residual.astype(jnp.float32)).astype(dtype)


def _pieces(count: int, most: int) -> list[Any]:
    """0 to count - 1 in slices of `most`."""
    return [pl.ds(start, min(most, count - start)) for start in range(0, count, most)]


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
