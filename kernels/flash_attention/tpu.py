"""Attention on a TPU (Pallas, Mosaic). Logits lie transposed, keys in rows: sums over keys then
run along sublanes, and what belongs to a query is a row of lanes.

B batch, T queries, S keys, H = G N heads in groups of N, K head size, V size of values; blocks of
r queries and c keys. Logits are in units of log 2, since exp2 is what the hardware has.
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
from jax.experimental.pallas import tpu as pltpu

from jaxdl.kernels.flash_attention import cpu
from jaxdl.kernels.flash_attention.spec import EMPTY, FAR, HIDDEN, Extras, Spec, in_band, kept

LANES = 128
LOG2E = math.log2(math.e)
BLOCKS = {"forward": (512, 512), "dq": (512, 512), "dkv": (512, 512)}
"""Queries and keys of a block."""
Arrays = dict[str, tuple[Array, tuple[int, ...], Callable]]


def refuses(spec: Spec, q: Array, k: Array, extras: Extras, *rest: Any) -> str | None:
    """Why this cannot run, if it cannot."""
    del spec, k, extras, rest
    if q.dtype == jnp.float64 or q.dtype == jnp.float16:
        return f"TPUs have no {q.dtype}; bfloat16 and float32 run"
    if q.shape[-1] > 256:
        return f"a head size of {q.shape[-1]} is above 256, the largest whose blocks fit"
    return None


def forward(spec: Spec, q: Array, k: Array, v: Array, extras: Extras) -> tuple[Array, Array]:
    """As the reference."""
    call = Call.of("forward", spec, q, k, v, extras)
    inputs = call.inputs(q, k, extras)
    inputs["v"] = call.of_keys(_heads(v).swapaxes(2, 3), turned=True)
    size = v.shape[-1]
    shapes = {
        "y": ((call.batch, call.heads, size, call.t), q.dtype),
        "lse": ((call.batch, call.heads, 1, call.t), jnp.float32),
    }
    outputs = {
        "y": ((1, 1, size, call.r), lambda b, h, i, j: (b, h, 0, i)),
        "lse": ((1, 1, 1, call.r), lambda b, h, i, j: (b, h, 0, i)),
    }
    scratch = {"y": (size, call.r), "total": (1, call.r), "most": (1, call.r)}
    y, lse = call.run(_forward_kernel, inputs, shapes, outputs, scratch)
    return y[..., : call.time].transpose(0, 3, 1, 2), lse[:, :, 0, : call.time]


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
    lse = jnp.where(jnp.isneginf(lse), FAR, lse * LOG2E)
    given = q, k, v, extras, dy, lse, inner
    return (*_dq(spec, *given), *_dkv(spec, *given), bias)


def _dq(spec, q, k, v, extras, dy, lse, inner) -> tuple[Array]:
    call = Call.of("dq", spec, q, k, v, extras)
    inputs = call.inputs(q, k, extras) | call.cotangents(v, dy, lse, inner)
    inputs["k_turned"] = call.of_keys(_heads(k).swapaxes(2, 3), turned=True)
    size = q.shape[-1]
    shapes = {"dq": ((call.batch, call.heads, size, call.t), q.dtype)}
    outputs = {"dq": ((1, 1, size, call.r), lambda b, h, i, j: (b, h, 0, i))}
    (dq,) = call.run(_dq_kernel, inputs, shapes, outputs, {"dq": (size, call.r)})
    return (dq[..., : call.time].transpose(0, 3, 1, 2),)


def _dkv(spec, q, k, v, extras, dy, lse, inner) -> tuple[Array, Array]:
    call = Call.of("dkv", spec, q, k, v, extras)
    inputs = call.inputs(q, k, extras) | call.cotangents(v, dy, lse, inner)
    sizes = {"dk": k.shape[-1], "dv": v.shape[-1]}
    shapes = {n: ((call.batch, call.groups, call.s, size), k.dtype) for n, size in sizes.items()}

    def place(b, h, i, j):
        return b, call.group(h), j, 0

    outputs = {name: ((1, 1, call.c, size), place) for name, size in sizes.items()}
    scratch = {name: (call.c, size) for name, size in sizes.items()}
    dk, dv = call.run(_dkv_kernel, inputs, shapes, outputs, scratch)
    return tuple(dx[:, :, : call.keys].swapaxes(1, 2) for dx in (dk, dv))


@dataclass(frozen=True)
class Call:
    """One kernel's sizes; t and s are T and S, padded to whole blocks.

    The grid is (B, H, blocks of queries, blocks of keys), or if `by_keys` (B, G, blocks of keys,
    N x blocks of queries); along its last dimension results are summed up.
    """

    spec: Spec
    by_keys: bool
    precise: bool
    batch: int
    heads: int
    groups: int
    time: int
    keys: int
    r: int
    c: int
    scalars: tuple[Array, Array]

    @classmethod
    def of(cls, kernel: str, spec: Spec, q: Array, k: Array, v: Array, extras: Extras) -> Call:
        """The sizes for these arrays."""
        del v
        (batch, time, heads, _), (keys, groups) = q.shape, k.shape[1:3]
        r, c = (
            min(most, -(-count // LANES) * LANES)
            for most, count in zip(BLOCKS[kernel], (time, keys), strict=True)
        )
        offset = extras.offset if spec.offset is None else spec.offset
        seeds = jnp.zeros(1, jnp.int32) if extras.seeds is None else extras.seeds
        scalars = jnp.asarray(offset, jnp.int32).reshape(1), seeds.reshape(-1).astype(jnp.int32)
        shape = batch, heads, groups, time, keys, r, c
        return cls(spec, kernel == "dkv", q.dtype == jnp.float32, *shape, scalars)

    @property
    def t(self) -> int:
        """T in whole blocks."""
        return -(-self.time // self.r) * self.r

    @property
    def s(self) -> int:
        """S in whole blocks."""
        return -(-self.keys // self.c) * self.c

    @property
    def grid(self) -> tuple[int, ...]:
        """Its shape."""
        n, m = self.t // self.r, self.s // self.c
        if self.by_keys:
            return self.batch, self.groups, m, self.shared * n
        return self.batch, self.heads, n, m

    @property
    def shared(self) -> int:
        """Heads of queries for each of keys."""
        return self.heads // self.groups

    def group(self, h: Any) -> Any:
        """The head of keys of a head of queries."""
        return h if self.shared == 1 else _block(h, self.shared)

    @property
    def factor(self) -> float:
        """By what queries are multiplied, beside the scale."""
        return LOG2E if self.spec.soft_cap is None else 1.0

    def place(self, b: Any, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any, Any]:
        """Example, head of queries, block of queries, block of keys, from a place in the grid."""
        if not self.by_keys:
            return b, x, y, z
        n = self.t // self.r
        return b, x * self.shared + _block(z, n), lax.rem(z, jnp.int32(n)), y

    def nearest(self, i: Any, j: Any, offset: Any) -> tuple[Any, Any]:
        """The block nearest to (i, j) along the last dimension that is needed: others stay away."""
        if self.by_keys:
            low, high, n = 0, self.t // self.r - 1, self.t // self.r
            if self.spec.right is not None:
                low = _block(j * self.c - self.spec.right - offset, self.r)
            if self.spec.left is not None:
                high = _block((j + 1) * self.c - 1 + self.spec.left - offset, self.r)
            return jnp.clip(jnp.clip(i, low, high), 0, n - 1), j
        low, high, m = 0, self.s // self.c - 1, self.s // self.c
        if self.spec.left is not None:
            low = _block(i * self.r + offset - self.spec.left, self.c)
        if self.spec.right is not None:
            high = _block((i + 1) * self.r - 1 + offset + self.spec.right, self.c)
        return i, jnp.clip(jnp.clip(j, low, high), 0, m - 1)

    def inputs(self, q: Array, k: Array, extras: Extras) -> Arrays:
        """What all kernels read."""
        scaled = q.astype(jnp.float32) * (self.spec.scale * self.factor)
        given = {
            "q": self.of_queries(_heads(scaled.astype(q.dtype))),
            "k": self.of_keys(_heads(k)),
        }
        if extras.bias is not None:
            given["bias"] = self.of_bias(extras.bias)
        if extras.q_segments is not None:
            ids = _padded(extras.q_segments[:, None], 2, self.t)
            given["q_segments"] = ids, (1, 1, self.r), lambda b, h, i, j: (b, 0, i)
            ids = _padded(extras.kv_segments[..., None], 1, self.s)
            given["kv_segments"] = ids, (1, self.c, 1), lambda b, h, i, j: (b, j, 0)
        return given

    def cotangents(self, v: Array, dy: Array, lse: Array, inner: Array) -> Arrays:
        """What the backward pass reads beside."""
        rows = {"lse": lse, "inner": inner}
        return {
            "v": self.of_keys(_heads(v)),
            "dy": self.of_queries(_heads(dy)),
            **{
                name: (
                    _padded(x[:, :, None], 3, self.t, FAR if name == "lse" else 0),
                    (1, 1, 1, self.r),
                    lambda b, h, i, j: (b, h, 0, i),
                )
                for name, x in rows.items()
            },
        }

    def of_queries(self, x: Array) -> tuple[Array, tuple[int, ...], Callable]:
        """[B, H, T, K] in blocks of queries."""
        block = 1, 1, self.r, x.shape[-1]
        return _padded(x, 2, self.t), block, lambda b, h, i, j: (b, h, i, 0)

    def of_keys(self, x: Array, turned: bool = False) -> tuple[Array, tuple[int, ...], Callable]:
        """[B, G, S, K] in blocks of keys, or `turned` [B, G, K, S]."""
        if turned:
            block = 1, 1, x.shape[2], self.c
            return _padded(x, 3, self.s), block, lambda b, h, i, j: (b, self.group(h), 0, j)
        block = 1, 1, self.c, x.shape[-1]
        return _padded(x, 2, self.s), block, lambda b, h, i, j: (b, self.group(h), j, 0)

    def of_bias(self, bias: Array) -> tuple[Array, tuple[int, ...], Callable]:
        """Keys in rows, as the logits."""
        bias = _padded(bias.astype(jnp.float32).swapaxes(2, 3), 2, self.s)
        several = [n > 1 for n in bias.shape]
        bias = _padded(bias, 3, self.t) if several[3] else bias

        def place(b, h, i, j):
            return b * several[0], h * several[1], j, i * several[3]

        return bias, (1, 1, self.c, self.r if several[3] else 1), place

    def run(self, kernel: Callable, inputs: Arrays, shapes: dict, outputs: dict, scratch: dict):
        """`kernel(call, at, refs)`, where `refs` holds inputs, outputs and `sums` by name."""

        def body(offset_ref, seeds_ref, *refs):
            names = [*inputs, *(f"{name}_out" for name in outputs)]
            named = dict(zip(names, refs, strict=False))
            sums = SimpleNamespace(**dict(zip(scratch, refs[len(names) :], strict=True)))
            at = self.place(*map(pl.program_id, range(4)))
            kernel(self, At(self, *at, offset_ref[0], seeds_ref), SimpleNamespace(**named), sums)

        def mapped(place):
            def index(b, x, y, z, offset_ref, seeds_ref):
                b, h, i, j = self.place(b, x, y, z)
                return place(b, h, *self.nearest(i, j, offset_ref[0]))

            return index

        spec = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=self.grid,
            in_specs=[pl.BlockSpec(block, mapped(at)) for _, block, at in inputs.values()],
            out_specs=[pl.BlockSpec(block, mapped(at)) for block, at in outputs.values()],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
        )
        parallel, summed = pltpu.PARALLEL, pltpu.ARBITRARY
        return pl.pallas_call(
            body,
            grid_spec=spec,
            out_shape=[jax.ShapeDtypeStruct(*shape) for shape in shapes.values()],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=(parallel, parallel, parallel, summed)
            ),
            name=f"flash_attention{kernel.__name__}",
        )(*self.scalars, *(x for x, _, _ in inputs.values()))

    def dot(self, a: Array, b: Array, contracted: tuple[int, int] = (1, 0)) -> Array:
        """Their product, summed in float32."""
        x, y = contracted
        return lax.dot_general(
            *(a, b, (((x,), (y,)), ((), ()))),
            # Else float32 would be rounded to bfloat16.
            precision=lax.Precision.HIGHEST if self.precise else None,
            preferred_element_type=jnp.float32,
        )


@dataclass(frozen=True)
class At:
    """Where in the grid a kernel is: example b, head h, blocks i of queries and j of keys."""

    call: Call
    b: Any
    h: Any
    i: Any
    j: Any
    offset: Any
    seeds: Any

    @property
    def edges(self) -> tuple[Any, Any]:
        """Whether this is the first and the last of the blocks that are summed up."""
        last = pl.program_id(3)
        return last == 0, last == self.call.grid[3] - 1

    def blocks(self, visit: Callable[[bool], None]) -> None:
        """`visit(masked)` unless positions hide the block; masked if they hide a part of it."""
        call, spec = self.call, self.call.spec
        first = self.i * call.r + self.offset  # where the first query stands
        nearest, farthest = self.j * call.c - first, (self.j + 1) * call.c - 1 - first
        needed, whole = [], []
        if spec.right is not None:
            needed.append(nearest <= spec.right + call.r - 1)
            whole.append(farthest <= spec.right)
        if spec.left is not None:
            needed.append(farthest >= -spec.left)
            whole.append(nearest - call.r + 1 >= -spec.left)
        if call.s > call.keys:
            whole.append((self.j + 1) * call.c <= call.keys)
        if not whole:
            visit(False)
            return
        needed, whole = (math.prod(x[1:], start=x[0]) if x else True for x in (needed, whole))
        pl.when(whole)(partial(visit, False))
        pl.when(jnp.logical_and(needed, jnp.logical_not(whole)))(partial(visit, True))

    def positions(self) -> tuple[Array, Array]:
        """Of queries and keys [c, r]."""
        shape = self.call.c, self.call.r
        rows = self.i * self.call.r + lax.broadcasted_iota(jnp.int32, shape, 1)
        columns = self.j * self.call.c + lax.broadcasted_iota(jnp.int32, shape, 0)
        return rows, columns

    def logits(self, refs: SimpleNamespace, masked: bool) -> tuple[Array, Any]:
        """[c, r] in units of log 2, and the derivative of the cap, or 1."""
        call, cap, slope = self.call, self.call.spec.soft_cap, 1
        logits = call.dot(refs.k[0, 0], refs.q[0, 0], (1, 1))
        if cap is not None:
            bent = jnp.tanh(logits * (1 / cap))
            logits, slope = bent * (cap * LOG2E), 1 - bent * bent
        if hasattr(refs, "bias"):
            logits = jnp.maximum(logits + refs.bias[0, 0] * LOG2E, HIDDEN)
        seen = []
        if masked:
            rows, columns = self.positions()
            band = in_band(call.spec, rows + self.offset, columns)
            seen += [] if band is None else [band]
            seen += [columns < call.keys] if call.s > call.keys else []
        if hasattr(refs, "q_segments"):
            seen.append(refs.kv_segments[0] == refs.q_segments[0])
        for each in seen:
            logits = jnp.where(each, logits, HIDDEN)
        return logits, slope

    def dropped(self, x: Array) -> Array:
        """`x` [c, r] without what dropout drops."""
        rate = self.call.spec.dropout
        if not rate:
            return x
        seed = self.seeds[self.b * self.call.heads + self.h]
        rows, columns = self.positions()
        return jnp.where(kept(rate, jnp.full_like(rows, seed), rows, columns), x / (1 - rate), 0)


def _forward_kernel(call: Call, at: At, refs: SimpleNamespace, sums: SimpleNamespace) -> None:
    first, last = at.edges

    @pl.when(first)
    def _():
        sums.y[...] = jnp.zeros_like(sums.y)
        sums.total[...] = jnp.zeros_like(sums.total)
        sums.most[...] = jnp.full_like(sums.most, HIDDEN)

    def visit(masked):
        logits, _ = at.logits(refs, masked)
        most = sums.most[...]
        now = jnp.maximum(most, logits.max(0, keepdims=True))
        weights, fade = jnp.exp2(logits - now), jnp.exp2(most - now)
        sums.total[...] = sums.total[...] * fade + weights.sum(0, keepdims=True)
        sums.most[...] = now
        v = refs.v[0, 0]
        sums.y[...] = sums.y[...] * fade + call.dot(v, at.dropped(weights).astype(v.dtype))

    at.blocks(visit)

    @pl.when(last)
    def _():
        some = sums.most[...] > EMPTY
        total = jnp.where(some, sums.total[...], 1)
        y = jnp.where(some, sums.y[...] / total, 0)
        refs.y_out[0, 0] = y.astype(refs.y_out.dtype)
        lse = sums.most[...] * (1 / LOG2E) + jnp.log(total)
        refs.lse_out[0, 0] = jnp.where(some, lse, -jnp.inf)


def _weights(at: At, refs: SimpleNamespace, masked: bool) -> tuple[Array, Array]:
    """The weights [c, r] that dropout leaves, and the gradient of their logits."""
    logits, slope = at.logits(refs, masked)
    weights = jnp.exp2(logits - refs.lse[0, 0])
    dweights = at.dropped(at.call.dot(refs.v[0, 0], refs.dy[0, 0], (1, 1)))
    return at.dropped(weights), weights * (dweights - refs.inner[0, 0]) * slope


def _dq_kernel(call: Call, at: At, refs: SimpleNamespace, sums: SimpleNamespace) -> None:
    first, last = at.edges

    @pl.when(first)
    def _():
        sums.dq[...] = jnp.zeros_like(sums.dq)

    def visit(masked):
        _, dlogits = _weights(at, refs, masked)
        k = refs.k_turned[0, 0]
        sums.dq[...] += call.dot(k, dlogits.astype(k.dtype))

    at.blocks(visit)

    @pl.when(last)
    def _():
        refs.dq_out[0, 0] = (sums.dq[...] * call.spec.scale).astype(refs.dq_out.dtype)


def _dkv_kernel(call: Call, at: At, refs: SimpleNamespace, sums: SimpleNamespace) -> None:
    first, last = at.edges

    @pl.when(first)
    def _():
        sums.dk[...] = jnp.zeros_like(sums.dk)
        sums.dv[...] = jnp.zeros_like(sums.dv)

    def visit(masked):
        weights, dlogits = _weights(at, refs, masked)
        q, dy = refs.q[0, 0], refs.dy[0, 0]
        sums.dv[...] += call.dot(weights.astype(dy.dtype), dy)
        sums.dk[...] += call.dot(dlogits.astype(q.dtype), q)

    at.blocks(visit)

    @pl.when(last)
    def _():
        refs.dk_out[0, 0] = (sums.dk[...] * (1 / call.factor)).astype(refs.dk_out.dtype)
        refs.dv_out[0, 0] = sums.dv[...].astype(refs.dv_out.dtype)


def _block(position: Any, size: int) -> Array:
    """The block in which a position lies; the first for those before."""
    # Mosaic asks the present device before it rounds a quotient down, and there may be none.
    return lax.div(jnp.maximum(position, 0), jnp.int32(size))


def _heads(x: Array) -> Array:
    """[B, T, H, K] -> [B, H, T, K]."""
    return x.swapaxes(1, 2)


def _padded(x: Array, axis: int, size: int, value: float = 0) -> Array:
    if x.shape[axis] == size:
        return x
    sides = [(0, size - n if d == axis else 0) for d, n in enumerate(x.shape)]
    return jnp.pad(x, sides, constant_values=value)
