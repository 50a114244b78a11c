"""Attention on an NVIDIA GPU (Pallas, Triton): a program holds a block of queries, or of keys, and
walks over the blocks that positions let it meet.

B batch, T queries, S keys, H = G N heads in groups of N, K head size; blocks of r queries and c
keys, to which lengths are padded, and sizes to powers of two. `gpu_blocks.py` has the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdl.kernels.flash_attention import cpu
from jaxdl.kernels.flash_attention.gpu_blocks import (
    LOG2E,
    Meeting,
    Sizes,
    dkv_kernel,
    dq_kernel,
    forward_kernel,
)
from jaxdl.kernels.flash_attention.spec import FAR, Extras, Spec
from jaxdl.kernels.flash_attention.tiles import Tile, tile_of

WIDE = 256
"""Bytes of the largest head whose gradients of keys and values are summed up together, and whose
masked blocks have loops of their own. The sums of larger ones leave few registers."""
Arrays = dict[str, tuple[Array, tuple[int | None, ...], Callable]]


def refuses(spec: Spec, q: Array, k: Array, extras: Extras, *rest: Any) -> str | None:
    """Why this cannot run, if it cannot."""
    del spec, k, extras, rest
    if q.dtype == jnp.float64:
        return "its sums are in float32; bfloat16, float16 and float32 run"
    if q.shape[-1] > 256:
        return f"a head size of {q.shape[-1]} is above 256, the largest whose blocks fit"
    if q.dtype == jnp.float32 and q.shape[-1] > 128:
        return f"a head size of {q.shape[-1]} in float32 is above 128; bfloat16 runs up to 256"
    return None


def forward(
    spec: Spec, q: Array, k: Array, v: Array, extras: Extras, tile: Tile | None = None
) -> tuple[Array, Array]:
    """As the reference; in these blocks, or in those of the device's table."""
    call = Call.of("forward", spec, q, k, v, tile)
    inputs = call.by_queries({"q": q}) | call.walked_keys({"k": k, "v": v}) | call.extras(extras)
    size = inputs["v"][0].shape[-1]
    block, place = (None, call.r, None, size), lambda b, h, i: (b, i, h, 0)
    outputs = {
        "y": (jax.ShapeDtypeStruct((*call.padded_queries, size), q.dtype), block, place),
        "lse": call.row_output(),
    }
    y, lse = call.run(forward_kernel, inputs, outputs)
    return y[:, : call.time, :, : v.shape[-1]], lse[..., : call.time]


def backward(
    spec: Spec,
    wanted_bias: bool,
    q: Array,
    k: Array,
    v: Array,
    extras: Extras,
    y: Array,
    lse: Array,
    dy: Array,
    dlse: Array,
) -> tuple[Array, Array, Array, Array | None]:
    """As the reference; the gradient of a bias, as large as the logits, is by blocks of XLA."""
    bias = None
    if wanted_bias:
        bias = cpu.backward(spec, True, q, k, v, extras, y, lse, dy, dlse)[3]
    inner = jnp.einsum("bthv,bthv->bht", dy, y, preferred_element_type=jnp.float32) - dlse
    rows = {"lse": jnp.where(jnp.isneginf(lse), FAR, lse * LOG2E), "inner": inner}
    return (*dq(spec, q, k, v, extras, dy, rows), *dkv(spec, q, k, v, extras, dy, rows), bias)


def dq(
    spec: Spec,
    q: Array,
    k: Array,
    v: Array,
    extras: Extras,
    dy: Array,
    rows: dict[str, Array],
    tile: Tile | None = None,
) -> tuple[Array]:
    """The gradient of queries; `rows` [B, H, T] f32 are lse in units of log 2, and `inner`."""
    call = Call.of("dq", spec, q, k, v, tile)
    inputs = call.by_queries({"q": q, "dy": dy}) | call.rows(rows)
    inputs |= call.walked_keys({"k": k, "v": v}) | call.extras(extras)
    array, block, place = inputs["q"]
    kind = spec.of_gradient(q.dtype)
    outputs = {"dq": (jax.ShapeDtypeStruct(array.shape, kind), block, place)}
    (dq,) = call.run(dq_kernel, inputs, outputs)
    return (dq[:, : call.time, :, : q.shape[-1]],)


def dkv(
    spec: Spec,
    q: Array,
    k: Array,
    v: Array,
    extras: Extras,
    dy: Array,
    rows: dict[str, Array],
    tile: Tile | None = None,
) -> tuple[Array, Array]:
    """Those of keys and of values, of the same."""
    call = Call.of("dkv", spec, q, k, v, tile)
    inputs = call.walked_queries({"q": q, "dy": dy}) | call.walked_rows(rows)
    inputs |= call.by_keys({"k": k, "v": v}) | call.extras(extras)
    kind = spec.of_gradient(k.dtype)
    outputs = {
        f"d{name}": (jax.ShapeDtypeStruct(inputs[name][0].shape, kind), *inputs[name][1:])
        for name in "kv"
    }
    if call.wide:
        dk, dv = (call.run(dkv_kernel, inputs, {name: x})[0] for name, x in outputs.items())
    else:
        dk, dv = call.run(dkv_kernel, inputs, outputs)
    return dk[:, : call.keys, :, : k.shape[-1]], dv[:, : call.keys, :, : v.shape[-1]]


@dataclass(frozen=True)
class Call(Sizes):
    """How one kernel is called: what lies where, and what of it a program gets."""

    @classmethod
    def of(cls, kernel: str, spec: Spec, q: Array, k: Array, v: Array, tile: Tile | None) -> Call:
        """The sizes for these arrays."""
        (batch, time, heads, _), (keys, groups) = q.shape, k.shape[1:3]
        size = max(q.shape[-1], v.shape[-1])
        tile = tile or tile_of(kernel, spec.device, size, q.dtype.itemsize)
        wide = _power(size) * q.dtype.itemsize > WIDE
        return cls(spec, tile, kernel == "dkv", wide, batch, heads, groups, time, keys)

    @property
    def padded_queries(self) -> tuple[int, int, int]:
        """B, T and H of the result."""
        return self.batch, self.n * self.r, self.heads

    def by_queries(self, arrays: dict[str, Array]) -> Arrays:
        """[B, T, H, K]: a program's block."""
        block, length = (None, self.r, None), self.n * self.r
        return _heads(arrays, length, block, lambda b, h, i: (b, i, h, 0))

    def walked_keys(self, arrays: dict[str, Array]) -> Arrays:
        """[B, S, G, K]: all keys of a head."""
        length = self.m * self.c
        block = None, length, None
        return _heads(arrays, length, block, lambda b, h, i: (b, 0, h // self.shared, 0))

    def by_keys(self, arrays: dict[str, Array]) -> Arrays:
        """[B, S, G, K]: a program's block."""
        block, length = (None, self.c, None), self.m * self.c
        return _heads(arrays, length, block, lambda b, g, j: (b, j, g, 0))

    def walked_queries(self, arrays: dict[str, Array]) -> Arrays:
        """[B, T, H, K]: all queries of a group's heads."""
        length = self.n * self.r
        block = None, length, self.shared
        return _heads(arrays, length, block, lambda b, g, j: (b, 0, g, 0))

    def rows(self, arrays: dict[str, Array]) -> Arrays:
        """[B, H, T]: a program's block."""
        block = None, None, self.r
        return _rows(arrays, self.n * self.r, block, lambda b, h, i: (b, h, i))

    def walked_rows(self, arrays: dict[str, Array]) -> Arrays:
        """[B, H, T]: those of a group's heads."""
        length = self.n * self.r
        return _rows(arrays, length, (None, self.shared, length), lambda b, g, j: (b, g, 0))

    def row_output(self) -> tuple[jax.ShapeDtypeStruct, tuple, Callable]:
        """[B, H, T] f32."""
        shape = self.batch, self.heads, self.n * self.r
        place = lambda b, h, i: (b, h, i)  # noqa: E731
        return jax.ShapeDtypeStruct(shape, jnp.float32), (None, None, self.r), place

    def extras(self, extras: Extras) -> Arrays:
        """All of an example's, from which a kernel takes what its block needs."""
        time, keys = self.n * self.r, self.m * self.c
        offset = extras.offset if self.spec.offset is None else self.spec.offset
        found = {"offset": (jnp.asarray(offset, jnp.int32).reshape(1), (1,), lambda b, h, i: (0,))}
        if extras.seeds is not None:
            seeds = extras.seeds.astype(jnp.int32)
            found["seeds"] = seeds, (None, self.heads), lambda b, h, i: (b, 0)
        if extras.runs is not None:
            found["runs"] = extras.runs, (2, 3), lambda b, h, i: (0, 0)
        if extras.q_segments is not None:
            ids = {
                "q_segments": (extras.q_segments, time),
                "kv_segments": (extras.kv_segments, keys),
            }
            for name, (x, length) in ids.items():
                found[name] = _lengthened(x, 1, length), (None, length), lambda b, h, i: (b, 0)
        if extras.bias is not None:
            bias = _lengthened(extras.bias, 3, keys)
            if bias.shape[2] > 1:
                bias = _lengthened(bias, 2, time)
            several = bias.shape[0] > 1
            block = (None, *bias.shape[1:])
            found["bias"] = bias, block, lambda b, h, i: (b * several, 0, 0, 0)
        return found

    def run(self, kernel: Callable, inputs: Arrays, outputs: dict[str, tuple]) -> list[Array]:
        """`kernel(meeting, refs)`, where `refs` holds inputs and outputs by name."""

        def body(*refs):
            names = [*inputs, *(f"{name}_out" for name in outputs)]
            named = SimpleNamespace(**dict(zip(names, refs, strict=True)))
            kernel(Meeting(self, named, pl.program_id(1), pl.program_id(2)), named)

        last = (self.groups, self.m) if self.keeps_keys else (self.heads, self.n)
        return pl.pallas_call(
            body,
            grid=(self.batch, *last),
            in_specs=[pl.BlockSpec(block, at) for _, block, at in inputs.values()],
            out_specs=[pl.BlockSpec(block, at) for _, block, at in outputs.values()],
            out_shape=[shape for shape, _, _ in outputs.values()],
            compiler_params=plgpu.CompilerParams(
                num_warps=self.tile.warps, num_stages=self.tile.stages
            ),
            name=f"flash_attention_{kernel.__name__}",
        )(*(x for x, _, _ in inputs.values()))


def _heads(arrays: dict[str, Array], length: int, block: tuple, place: Callable) -> Arrays:
    """Padded to `length` positions, of which a program gets a `block` of whole heads at `place`."""
    return {
        name: (_padded(x, 1, length), (*block, _power(x.shape[-1])), place)
        for name, x in arrays.items()
    }


def _rows(arrays: dict[str, Array], length: int, block: tuple, place: Callable) -> Arrays:
    """The same of numbers of queries; padding has a log-sum-exp that leaves no weight."""
    return {
        name: (_lengthened(x, 2, length, FAR if name == "lse" else 0), block, place)
        for name, x in arrays.items()
    }


def _power(size: int) -> int:
    """The least power of two from 16 on."""
    return max(16, 1 << (size - 1).bit_length())


def _padded(x: Array, axis: int, length: int) -> Array:
    """With a size that is a power of two, and that length."""
    return _lengthened(_lengthened(x, x.ndim - 1, _power(x.shape[-1])), axis, length)


def _lengthened(x: Array, axis: int, length: int, value: float = 0) -> Array:
    if x.shape[axis] == length:
        return x
    sides = [(0, length - n if d == axis else 0) for d, n in enumerate(x.shape)]
    return jnp.pad(x, sides, constant_values=value)
