"""Normalisation on GPUs (Pallas, Triton): rows in registers, read once.

Statistics are computed again in the backward pass, so that nothing but h is kept for it. There each
program goes over every P-th block of rows and writes its sums for scale and bias as one of P rows,
which are then added: always in the same order, without atomics.

N rows, D features, E the next power of two, R rows of a block, P programs.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdl.kernels.layer_norm.blocks import GpuBlocks, on_gpu
from jaxdl.kernels.layer_norm.reference import WEIGHTS, Norm

WIDEST = 2**14
"""Features whose row is spread over the registers of one program without spilling."""
WIDEST_BACK = 2**13
"""In the backward pass, which holds two arrays and two sums of them."""
PROGRAMS = 264
"""Of the backward pass, two for each multiprocessor of an H100 or H200."""


def refusal(x: Array, device: str, name: str, center: bool) -> str | None:
    """Why rows like x [..., D] cannot be normalised here; None where they can."""
    del device, center
    if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"it takes float32, bfloat16 and float16, not {x.dtype.name}"
    if x.shape[-1] > (most := WIDEST_BACK if name == "backward" else WIDEST):
        return f"registers hold rows of {most} features, not of {x.shape[-1]}"
    return "there are no rows" if x.size == 0 else None


def forward(
    x: Array,
    residual: Array | None,
    scale: Array,
    bias: Array | None,
    norm: Norm,
    device: str = "",
    interpret: Any = False,
    blocks: GpuBlocks | None = None,
) -> tuple[Array, Array]:
    """As the reference; in these blocks, or in those of the table."""
    name = "forward" if residual is None else "with residual"
    blocks = blocks or on_gpu(name, norm.center, device, x.shape[-1])
    rows = {"x": x} if residual is None else {"x": x, "residual": residual}
    rows = {name: a.reshape(-1, x.shape[-1]) for name, a in rows.items()}
    weights = {"scale": scale} if bias is None else {"scale": scale, "bias": bias}
    out = {"y": jax.ShapeDtypeStruct(rows["x"].shape, norm.dtype)}
    if residual is not None:
        out["h"] = jax.ShapeDtypeStruct(rows["x"].shape, jnp.result_type(x, residual))
    block = _block(rows["x"].shape, blocks.numbers)
    found = pl.pallas_call(
        partial(_forward_kernel, norm=norm, block=block),
        out_shape=out,
        grid=(pl.cdiv(rows["x"].shape[0], block[0]),),
        compiler_params=_warps(block),
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
    blocks: GpuBlocks | None = None,
) -> tuple[Array, ...]:
    """As the reference; in these blocks, or in those of the table."""
    blocks = blocks or on_gpu("backward", norm.center, device, h.shape[-1])
    rows = {"h": h, "dy": dy} if dh is None else {"h": h, "dy": dy, "dh": dh}
    rows = {name: a.reshape(-1, h.shape[-1]) for name, a in rows.items()}
    size, features = rows["h"].shape
    block = _block((size, features), blocks.numbers)
    weights = WEIGHTS[norm.center]
    programs = min(pl.cdiv(size, block[0]), PROGRAMS)
    dx = jax.ShapeDtypeStruct((size, features), h.dtype)
    sums = jax.ShapeDtypeStruct((programs, features), jnp.float32)
    found = pl.pallas_call(
        partial(_backward_kernel, norm=norm, block=block),
        out_shape={"dx": dx, **dict.fromkeys(weights, sums)},
        grid=(programs,),
        compiler_params=_warps(block),
        interpret=interpret,
        name="norm_backward",
    )(rows, scale)
    return found["dx"].reshape(h.shape), *(found[name].sum(0) for name in weights)


def _forward_kernel(rows: dict, weights: dict, out: dict, *, norm: Norm, block: tuple) -> None:
    part = _Part(pl.program_id(0), rows["x"].shape, block)
    h = part.load(rows["x"])
    if "residual" in rows:
        h = (h + part.load(rows["residual"])).astype(out["h"].dtype)
        part.store(out["h"], h)
        h = h.astype(jnp.float32)
    y = _standardised(h, norm, part)[0] * part.load_weight(weights["scale"])
    if "bias" in weights:
        y += part.load_weight(weights["bias"])
    part.store(out["y"], y)


def _backward_kernel(rows: dict, scale: Any, out: dict, *, norm: Norm, block: tuple) -> None:
    me, programs, (size, features) = pl.program_id(0), pl.num_programs(0), rows["h"].shape
    weight = _Part(0, (size, features), block).load_weight(scale)

    def add(i, sums):
        part = _Part(me + i * programs, (size, features), block)
        unit, rate = _standardised(part.load(rows["h"]), norm, part)
        dy = part.load(rows["dy"])
        dunit = dy * weight
        dx = dunit - unit * (jnp.sum(dunit * unit, 1, keepdims=True) / features)
        if norm.center:
            dx -= jnp.sum(dunit, 1, keepdims=True) / features
        dx *= rate
        if "dh" in rows:
            dx += part.load(rows["dh"])
        part.store(out["dx"], dx)
        # Rows beyond the last are of zeros.
        return tuple(
            total + jnp.sum(values, 0) for total, values in zip(sums, (dy * unit, dy), strict=False)
        )

    names = WEIGHTS[norm.center]
    trips = pl.cdiv(pl.cdiv(size, block[0]) - me, programs)
    start = (jnp.zeros(block[1], jnp.float32),) * len(names)
    columns = jnp.arange(block[1])
    for name, value in zip(names, jax.lax.fori_loop(0, trips, add, start), strict=True):
        plgpu.store(out[name].at[me, columns], value, mask=columns < features)


class _Part:
    """Block `index` [R, E] of an array [N, D]: 0 is read, and nothing written, beyond the array."""

    def __init__(self, index: Any, shape: tuple[int, int], block: tuple[int, int]):
        self.features = shape[1]
        rows, self.columns = index * block[0] + jnp.arange(block[0]), jnp.arange(block[1])
        self.at = rows[:, None], self.columns[None]
        self.known = self.columns[None] < shape[1]
        self.mask = (rows[:, None] < shape[0]) & self.known

    def load(self, ref: Any) -> Array:
        return plgpu.load(ref.at[self.at], mask=self.mask, other=0).astype(jnp.float32)

    def load_weight(self, ref: Any) -> Array:
        weight = plgpu.load(ref.at[self.columns], mask=self.columns < self.features, other=0)
        return weight.astype(jnp.float32)[None]

    def store(self, ref: Any, value: Array) -> None:
        plgpu.store(ref.at[self.at], value.astype(ref.dtype), mask=self.mask)


def _standardised(h: Array, norm: Norm, part: _Part) -> tuple[Array, Array]:
    """As the reference, with 0 beyond the features."""
    if norm.center:
        h = jnp.where(part.known, h - jnp.sum(h, 1, keepdims=True) / part.features, 0.0)
    rate = jax.lax.rsqrt(jnp.sum(h * h, 1, keepdims=True) / part.features + norm.eps)
    return h * rate, rate


def _block(shape: tuple[int, int], elements: int) -> tuple[int, int]:
    wide = pl.next_power_of_2(shape[1])
    rows = min(max(elements // wide, 1), pl.next_power_of_2(shape[0]))
    return rows, wide


def _warps(block: tuple[int, int]) -> plgpu.CompilerParams:
    """As many warps as leave a thread about 16 numbers of a block, at most 32 of them."""
    return plgpu.CompilerParams(num_warps=min(max(math.prod(block) // (32 * 16), 1), 32))
