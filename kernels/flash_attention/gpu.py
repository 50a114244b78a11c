"""Attention on an NVIDIA GPU (Pallas, Triton): a program holds a block of queries, or of keys, and
walks over the blocks that positions let it meet.

B batch, T queries, S keys, H = G N heads in groups of N, K head size; blocks of r queries and c
keys. Lengths and sizes are padded: r and c divide T and S, and sizes are powers of two. Logits are
in units of log 2, since exp2 is what the hardware has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdl.kernels.flash_attention import cpu
from jaxdl.kernels.flash_attention.spec import (
    EMPTY,
    FAR,
    HIDDEN,
    Extras,
    Spec,
    in_band,
    kept,
    standing,
)
from jaxdl.kernels.flash_attention.tiles import Tile, tile_of

LOG2E = math.log2(math.e)


PRECISE = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
"""How float32 is multiplied: as three products of tensor cores, about as exact as itself."""
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
    y, lse = call.run(_forward_kernel, inputs, outputs)
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
    (dq,) = call.run(_dq_kernel, inputs, outputs)
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
        dk, dv = (call.run(_dkv_kernel, inputs, {name: x})[0] for name, x in outputs.items())
    else:
        dk, dv = call.run(_dkv_kernel, inputs, outputs)
    return dk[:, : call.keys, :, : k.shape[-1]], dv[:, : call.keys, :, : v.shape[-1]]


@dataclass(frozen=True)
class Call:
    """One kernel's sizes. The grid is (B, H, blocks of queries), or (B, G, blocks of keys) if a
    program `keeps_keys`.
    """

    spec: Spec
    tile: Tile
    keeps_keys: bool
    wide: bool
    batch: int
    heads: int
    groups: int
    time: int
    keys: int

    @classmethod
    def of(cls, kernel: str, spec: Spec, q: Array, k: Array, v: Array, tile: Tile | None) -> Call:
        """The sizes for these arrays."""
        (batch, time, heads, _), (keys, groups) = q.shape, k.shape[1:3]
        size = max(q.shape[-1], v.shape[-1])
        tile = tile or tile_of(kernel, spec.device, size, q.dtype.itemsize)
        wide = _power(size) * q.dtype.itemsize > WIDE
        return cls(spec, tile, kernel == "dkv", wide, batch, heads, groups, time, keys)

    @property
    def r(self) -> int:
        """Queries of a block."""
        return self.tile.r

    @property
    def c(self) -> int:
        """Keys of a block."""
        return self.tile.c

    @property
    def n(self) -> int:
        """Blocks of queries."""
        return -(-self.time // self.r)

    @property
    def m(self) -> int:
        """Blocks of keys."""
        return -(-self.keys // self.c)

    @property
    def shared(self) -> int:
        """Heads of queries for each of keys."""
        return self.heads // self.groups

    @property
    def padded_queries(self) -> tuple[int, int, int]:
        """B, T and H of the result."""
        return self.batch, self.n * self.r, self.heads

    def by_queries(self, arrays: dict[str, Array]) -> Arrays:
        """[B, T, H, K]: a program's block."""
        return {
            name: (
                _padded(x, 1, self.n * self.r),
                (None, self.r, None, _power(x.shape[-1])),
                lambda b, h, i: (b, i, h, 0),
            )
            for name, x in arrays.items()
        }

    def walked_keys(self, arrays: dict[str, Array]) -> Arrays:
        """[B, S, G, K]: all keys of a head."""
        length = self.m * self.c
        return {
            name: (
                _padded(x, 1, length),
                (None, length, None, _power(x.shape[-1])),
                lambda b, h, i: (b, 0, h // self.shared, 0),
            )
            for name, x in arrays.items()
        }

    def by_keys(self, arrays: dict[str, Array]) -> Arrays:
        """[B, S, G, K]: a program's block."""
        return {
            name: (
                _padded(x, 1, self.m * self.c),
                (None, self.c, None, _power(x.shape[-1])),
                lambda b, g, j: (b, j, g, 0),
            )
            for name, x in arrays.items()
        }

    def walked_queries(self, arrays: dict[str, Array]) -> Arrays:
        """[B, T, H, K]: all queries of a group's heads."""
        length = self.n * self.r
        return {
            name: (
                _padded(x, 1, length),
                (None, length, self.shared, _power(x.shape[-1])),
                lambda b, g, j: (b, 0, g, 0),
            )
            for name, x in arrays.items()
        }

    def rows(self, arrays: dict[str, Array]) -> Arrays:
        """[B, H, T]: a program's block."""
        length = self.n * self.r
        return {
            name: (
                _lengthened(x, 2, length, FAR if name == "lse" else 0),
                (None, None, self.r),
                lambda b, h, i: (b, h, i),
            )
            for name, x in arrays.items()
        }

    def walked_rows(self, arrays: dict[str, Array]) -> Arrays:
        """[B, H, T]: those of a group's heads."""
        length = self.n * self.r
        return {
            name: (
                _lengthened(x, 2, length, FAR if name == "lse" else 0),
                (None, self.shared, length),
                lambda b, g, j: (b, g, 0),
            )
            for name, x in arrays.items()
        }

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
            name=f"flash_attention{kernel.__name__}",
        )(*(x for x, _, _ in inputs.values()))


@dataclass(frozen=True)
class Meeting:
    """What a program computes where a block of queries meets one of keys."""

    call: Call
    refs: SimpleNamespace
    head: Any  # of queries, or of keys if the program keeps them
    block: Any

    def walk(self, visit: Callable, state: Any) -> Any:
        """Folds `state = visit(masked, other block, state)` over the blocks that may be met.

        Those that positions hide in part are `masked`, and apart from the others unless registers
        are few, or a logit costs much more than its mask.
        """
        low, first, last, high = self._bounds()
        spec = self.call.spec
        if self.call.wide or spec.dropout or spec.soft_cap or hasattr(self.refs, "bias"):
            return lax.fori_loop(low, high, partial(visit, True), state)
        for start, stop, masked in ((low, first, True), (first, last, False), (last, high, True)):
            if start is not stop:
                state = lax.fori_loop(start, stop, lambda i, x, m=masked: visit(m, i, x), state)
        return state

    def _bounds(self) -> tuple[Any, Any, Any, Any]:
        """Blocks met begin and end with the outer two, of which the inner two are met entirely."""
        call, spec, offset = self.call, self.call.spec, self.refs.offset[0]
        own, size, count = call.r, call.c, call.m
        before, after, shift = spec.left, spec.right, offset
        if call.keeps_keys:
            own, size, count = call.c, call.r, call.n
            before, after, shift = spec.right, spec.left, -offset
        start = self.block * own + shift
        low = first = jnp.int32(0)
        last = high = jnp.int32(count)
        if before is not None:
            low = _clipped(_quotient(start - before, size), 0, count)
            first = _quotient(start + own - 1 - before + size - 1, size)
        if after is not None:
            high = _clipped(_quotient(start + own - 1 + after + size, size), low, count)
            last = _quotient(start + after + 1, size)
        whole = call.keys // call.c
        if not call.keeps_keys and whole < call.m:
            last = jnp.minimum(last, whole)
        if before is not None:
            first = _clipped(first, low, high)
        if last is not high:
            last = _clipped(last, first, high)
        if call.keeps_keys and call.m * call.c > call.keys:
            # The keys that are padding belong to one program, which masks all it meets.
            first = jnp.where(self.block < whole, first, last)
            return low, first, last, high
        return low, first, last, high

    def logits(self, q: Array, k: Array, head: Any, i: Any, j: Any, masked: bool):
        """[r, c] in units of log 2, and the derivative of the cap, or 1; [c, r] if keys are kept,
        since products take what is in registers from the left.
        """
        call, spec, refs, slope = self.call, self.call.spec, self.refs, 1
        products = _dot(k, q.T) if call.keeps_keys else _dot(q, k.T)
        if spec.soft_cap is None:
            logits = products * (spec.scale * LOG2E)
        else:
            bent = _tanh(products * (spec.scale / spec.soft_cap))
            logits, slope = bent * (spec.soft_cap * LOG2E), 1 - bent * bent
        rows, columns = self.positions(i, j)
        if hasattr(refs, "bias"):
            at = head if refs.bias.shape[0] > 1 else 0
            some = pl.ds(i * call.r, call.r) if refs.bias.shape[1] > 1 else pl.ds(0, 1)
            bias = refs.bias[at, some, pl.ds(j * call.c, call.c)].astype(jnp.float32)
            bias = bias.T if call.keeps_keys else bias
            logits = jnp.maximum(logits + bias * LOG2E, HIDDEN)
        seen = []
        if masked:
            band = in_band(spec, rows + refs.offset[0], columns)
            seen += [] if band is None else [band]
            seen += [columns < call.keys] if call.m * call.c > call.keys else []
        if hasattr(refs, "q_segments"):
            mine = refs.q_segments[pl.ds(i * call.r, call.r)]
            theirs = refs.kv_segments[pl.ds(j * call.c, call.c)]
            seen.append(self.of_queries(mine) == self.of_keys(theirs))
        for each in seen:
            logits = jnp.where(each, logits, HIDDEN)
        return logits, slope

    def positions(self, i: Any, j: Any) -> tuple[Array, Array]:
        """Of queries and of keys, as the logits lie."""
        call, axis = self.call, int(self.call.keeps_keys)
        return i * call.r + _places(call.r, axis), j * call.c + _places(call.c, 1 - axis)

    def of_queries(self, x: Array) -> Array:
        """`x` [r] beside logits."""
        return x[None] if self.call.keeps_keys else x[:, None]

    def of_keys(self, x: Array) -> Array:
        """`x` [c] beside logits."""
        return x[:, None] if self.call.keeps_keys else x[None]

    def dropped(self, x: Array, head: Any, i: Any, j: Any) -> Array:
        """`x` [r, c] without what dropout drops."""
        rate = self.call.spec.dropout
        if not rate:
            return x
        places = self.positions(i, j)
        if hasattr(self.refs, "runs"):
            runs = [[self.refs.runs[n, i] for i in range(3)] for n in range(2)]
            places = map(standing, runs, places)
        stays = kept(rate, self.refs.seeds[head], *places)
        return jnp.where(stays, x * (1 / (1 - rate)), 0.0)

    def gradients(self, q, k, v, dy, lse, inner, head, i, j, masked) -> tuple[Array, Array]:
        """The weights that dropout leaves, and the gradient of their logits, as these lie."""
        logits, slope = self.logits(q, k, head, i, j, masked)
        weights = jnp.exp2(logits - self.of_queries(lse))
        products = _dot(v, dy.T) if self.call.keeps_keys else _dot(dy, v.T)
        dweights = self.dropped(products, head, i, j) - self.of_queries(inner)
        return self.dropped(weights, head, i, j), weights * dweights * slope


def _forward_kernel(meet: Meeting, refs: SimpleNamespace) -> None:
    call, head, i, q = meet.call, meet.head, meet.block, refs.q[...]

    def visit(masked, j, state):
        y, total, most = state
        at = pl.ds(j * call.c, call.c)
        logits, _ = meet.logits(q, refs.k[at, :], head, i, j, masked)
        now = jnp.maximum(most, logits.max(1))
        weights, fade = jnp.exp2(logits - now[:, None]), jnp.exp2(most - now)
        v = refs.v[at, :]
        added = _dot(meet.dropped(weights, head, i, j).astype(v.dtype), v)
        return y * fade[:, None] + added, total * fade + weights.sum(1), now

    row = jnp.zeros(call.r, jnp.float32)
    y = jnp.zeros((call.r, refs.v.shape[-1]), jnp.float32)
    y, total, most = meet.walk(visit, (y, row, row + HIDDEN))
    some = most > EMPTY
    total = jnp.where(some, total, 1.0)
    refs.y_out[...] = jnp.where(some[:, None], y / total[:, None], 0.0).astype(refs.y_out.dtype)
    refs.lse_out[...] = jnp.where(some, most * (1 / LOG2E) + jnp.log(total), -jnp.inf)


def _dq_kernel(meet: Meeting, refs: SimpleNamespace) -> None:
    call, head, i, q, dy = meet.call, meet.head, meet.block, refs.q[...], refs.dy[...]
    lse, inner = refs.lse[...], refs.inner[...]

    def visit(masked, j, dq):
        at = pl.ds(j * call.c, call.c)
        k = refs.k[at, :]
        given = q, k, refs.v[at, :], dy, lse, inner
        _, dlogits = meet.gradients(*given, head, i, j, masked)
        return dq + _dot(dlogits.astype(k.dtype), k)

    dq = meet.walk(visit, jnp.zeros(q.shape, jnp.float32)) * call.spec.scale
    refs.dq_out[...] = dq.astype(refs.dq_out.dtype)


def _dkv_kernel(meet: Meeting, refs: SimpleNamespace) -> None:
    call, j, k, v = meet.call, meet.block, refs.k[...], refs.v[...]
    outputs = {name: getattr(refs, f"d{name}_out", None) for name in "kv"}
    outputs = {name: out for name, out in outputs.items() if out is not None}

    def of_head(n, state):
        def visit(masked, i, state):
            at = pl.ds(i * call.r, call.r)
            q, dy = refs.q[at, n, :], refs.dy[at, n, :]
            given = q, k, v, dy, refs.lse[n, at], refs.inner[n, at]
            head = meet.head * call.shared + n
            weights, dlogits = meet.gradients(*given, head, i, j, masked)
            terms = {"k": (dlogits, q), "v": (weights, dy)}
            return {
                name: total + _dot(terms[name][0].astype(q.dtype), terms[name][1])
                for name, total in state.items()
            }

        return meet.walk(visit, state)

    state = {name: jnp.zeros(out.shape, jnp.float32) for name, out in outputs.items()}
    found = of_head(0, state) if call.shared == 1 else lax.fori_loop(0, call.shared, of_head, state)
    for name, out in outputs.items():
        out[...] = (found[name] * (call.spec.scale if name == "k" else 1)).astype(out.dtype)


def _dot(a: Array, b: Array) -> Array:
    """Their product, summed in float32."""
    precision = PRECISE if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _places(count: int, axis: int) -> Array:
    """0, 1 ... along one of two axes."""
    # Spread from one axis, as by x[None], they take registers enough to spill.
    return lax.broadcasted_iota(jnp.int32, (1, count) if axis else (count, 1), axis)


def _tanh(x: Array) -> Array:
    return 1 - 2 / (jnp.exp2(x * (2 * LOG2E)) + 1)


def _quotient(x: Any, size: int) -> Array:
    """x / size, rounded towards zero: what is below it is clipped."""
    return lax.div(x, jnp.int32(size))


def _clipped(x: Any, low: Any, high: Any) -> Array:
    return jnp.minimum(jnp.maximum(x, low), high)


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
