"""What both passes on a TPU share: how arrays are cut, which blocks positions leave, their logits.

A program holds one block of "here" and walks over those of "there": forward, here are queries and
there keys; backward, the other way round. Logits always lie [here, there]. They are in units of
log 2, since exp2 is what the hardware has.

B batch, T queries, S keys, H = G N heads in groups of N, K head size.
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

from jaxdl.kernels.flash_attention.blocks import TpuBlocks
from jaxdl.kernels.flash_attention.spec import HIDDEN, Extras, Spec, in_band, kept, standing

LANES = 128
LOG2E = math.log2(math.e)
TOGETHER = 2**19
"""Elements of an array of "there" that are in fast memory at a time; four such arrays are."""
BIASED = 1024
"""Positions of "there" beside which a bias has room."""
BESIDE = 12 * 2**20
"""Bytes of fast memory for what is neither a block nor a sum. What a kernel claims, others lack: a
v5p has 64 MiB, a v5e and a v6e 128.
"""
Given = tuple[Array, tuple[int, ...], Callable]
"""An array, its block, and the block's place for (b, h, block here, stretch there)."""


@dataclass(frozen=True)
class Side:
    """`count` positions in blocks of `size`, of which a stretch is in fast memory at a time."""

    count: int
    size: int
    stretch: int = 1

    @classmethod
    def of(cls, count: int, most: int, room: int = 0) -> Side:
        """Even blocks of at most `most`, stretches of about `room` positions or of one block."""
        size = _even(count, most, LANES)
        blocks = -(-count // size)
        return cls(count, size, _even(blocks, max(room // size, 1), 1))

    @property
    def blocks(self) -> int:
        """All of them, in whole stretches."""
        return self.stretches * self.stretch

    @property
    def stretches(self) -> int:
        """How many."""
        return -(-self.count // (self.size * self.stretch))

    @property
    def padded(self) -> int:
        """Positions in whole stretches."""
        return self.blocks * self.size


@dataclass(frozen=True)
class Call:
    """One kernel: its grid is (B, H, blocks here, stretches there)."""

    spec: Spec
    by_keys: bool
    batch: int
    heads: int
    groups: int
    here: Side
    there: Side
    together: int
    precise: bool

    @classmethod
    def of(cls, spec: Spec, q: Array, k: Array, extras: Extras, blocks: TpuBlocks, by_keys: bool):
        """The sizes for these arrays."""
        counts = (k.shape[1], q.shape[1]) if by_keys else (q.shape[1], k.shape[1])
        room = TOGETHER // max(q.shape[-1], LANES) // (q.dtype.itemsize // 2)
        room = room if extras.bias is None else min(room, BIASED)
        here, there = Side.of(counts[0], blocks.here), Side.of(counts[1], blocks.there, room)
        shape = q.shape[0], q.shape[2], k.shape[2], here, there
        return cls(spec, by_keys, *shape, blocks.together, q.dtype == jnp.float32)

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Its shape."""
        return self.batch, self.heads, self.here.blocks, self.there.stretches

    @property
    def ragged(self) -> bool:
        """Whether padding would be taken for keys."""
        keys = self.here if self.by_keys else self.there
        return keys.padded > keys.count

    def reach(self, i: Any, offset: Any, size: int, count: int) -> tuple[Any, ...]:
        """Ends of those of `count` blocks of `size` there that block i here meets: (low, whole,
        part, high), of which whole to part - 1 are seen by all and the others by some.
        """
        before, after = self.spec.left, self.spec.right
        first = i * self.here.size + offset
        if self.by_keys:
            before, after, first = after, before, i * self.here.size - offset
        last, low, whole = first + self.here.size - 1, 0, 0
        high, part = count, count
        if before is not None:
            low, whole = _block(first - before, size), _block(last - before + size - 1, size)
        if after is not None:
            high, part = _block(last + after + size, size), _block(first + after + 1, size)
        if self.ragged and self.by_keys:
            part = jnp.where((i + 1) * self.here.size <= self.here.count, part, 0)
        elif self.ragged:
            part = jnp.minimum(part, self.there.count // size)
        return low, whole, part, jnp.minimum(high, count)

    def scalars(self, extras: Extras, start: int) -> tuple[Array, Array]:
        """Where queries stand, which of all the first is, the runs, and the seeds."""
        offset = extras.offset if self.spec.offset is None else self.spec.offset
        places = jnp.stack([jnp.asarray(offset, jnp.int32), jnp.asarray(start, jnp.int32)])
        if extras.runs is not None:
            places = jnp.concatenate([places, extras.runs.reshape(-1)])
        seeds = places if extras.seeds is None else extras.seeds
        return places, seeds.reshape(-1).astype(jnp.int32)

    def of_here(self, x: Array) -> Given:
        """[B, T, H, K] in blocks."""
        x = padded(x.swapaxes(1, 2), 2, self.here.padded)
        block = 1, 1, self.here.size, x.shape[3]
        share = self.heads // x.shape[1]
        return x, block, lambda b, h, i, j: (b, _block(h, share), i, 0)

    def of_there(self, x: Array) -> Given:
        """[B, T, H, K] in stretches."""
        x = padded(x.swapaxes(1, 2), 2, self.there.padded)
        block = 1, 1, self.there.stretch * self.there.size, x.shape[3]
        share = self.heads // x.shape[1]
        return x, block, lambda b, h, i, j: (b, _block(h, share), j, 0)

    def rows_there(self, x: Array, fill: float = 0) -> Given:
        """[B, 1 or H, T] in stretches of blocks, each a row."""
        x = padded(x, 2, self.there.padded, fill)
        x = x.reshape(*x.shape[:2], self.there.blocks, 1, self.there.size)
        many = x.shape[1] > 1
        block = 1, 1, self.there.stretch, 1, self.there.size
        return x, block, lambda b, h, i, j: (b, h * many, j, 0, 0)

    def masks(self, extras: Extras) -> dict[str, Given]:
        """Bias and segments, as far as there are."""
        given = {}
        if extras.bias is not None:
            given["bias"] = self._bias(extras.bias.swapaxes(2, 3 if self.by_keys else 2))
        if extras.q_segments is not None:
            ids = extras.q_segments, extras.kv_segments
            here, there = ids[::-1] if self.by_keys else ids
            here = padded(here[..., None], 1, self.here.padded)
            block = 1, self.here.size, 1
            given["segments_here"] = here, block, lambda b, h, i, j: (b, i, 0)
            given["segments_there"] = self.rows_there(there[:, None])
        return given

    def _bias(self, bias: Array) -> Given:
        """[B, H, here, there] in blocks; what is 1 of them stays it."""
        *many, here, there = (n > 1 for n in bias.shape)
        bias = bias.astype(jnp.float32) * LOG2E
        bias = padded(bias, 2, self.here.padded) if here else bias
        bias = padded(bias, 3, self.there.padded) if there else bias
        size, stretch = (self.there.size, self.there.stretch) if there else (1, 1)
        bias = jnp.moveaxis(bias.reshape(*bias.shape[:3], -1, size), 3, 2)
        block = 1, 1, stretch, self.here.size if here else 1, size
        return bias, block, lambda b, h, i, j: (b * many[0], h * many[1], j * there, i * here, 0)

    def run(self, kernel: Callable, extras: Extras, start: int, given: dict, out: dict, sums: dict):
        """`kernel(at)`, which holds what is `given`, the results `out` and the `sums` by name.

        `out` tells shape, dtype, block and place.
        """
        names = [*given, *out, *sums]

        def body(places, seeds, *refs):
            kernel(At(self, places, seeds, SimpleNamespace(**dict(zip(names, refs, strict=True)))))

        def nearest(place):
            def index(b, h, i, j, places, _):
                size = self.there.size * self.there.stretch
                low, _, _, high = self.reach(i, places[0], size, self.there.stretches)
                near = jnp.clip(j, low, jnp.maximum(high - 1, low))
                return place(b, h, i, jnp.minimum(near, self.there.stretches - 1))

            return index

        def still(block, place):
            # What does not move from block to block needs no second buffer.
            once = pl.Buffered(1) if block[2] > self.here.size else None
            return pl.BlockSpec(block, lambda *at: place(*at[:4]), pipeline_mode=once)

        grid = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=self.grid,
            in_specs=[pl.BlockSpec(block, nearest(place)) for _, block, place in given.values()],
            out_specs=[still(block, place) for *_, block, place in out.values()],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in sums.values()],
        )
        blocks = [(block, x.dtype) for x, block, _ in given.values()]
        blocks += [(block, kind) for _, kind, block, _ in out.values()]
        room = sum(2 * _bytes(*each) for each in blocks)
        room += sum(_bytes(shape, jnp.float32) for shape in sums.values())
        free, ordered = pltpu.PARALLEL, pltpu.ARBITRARY
        return pl.pallas_call(
            body,
            grid_spec=grid,
            out_shape=[jax.ShapeDtypeStruct(*each[:2]) for each in out.values()],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=(free, free, ordered if self.by_keys else free, ordered),
                vmem_limit_bytes=BESIDE + room,
            ),
            name=f"flash_attention_{kernel.__name__}",
        )(*self.scalars(extras, start), *(x for x, *_ in given.values()))

    def dot(self, a: Array, b: Array, contracted: tuple[int, int] = (1, 0)) -> Array:
        """Their product, summed in float32."""
        x, y = contracted
        return lax.dot_general(
            *(a, b, (((x,), (y,)), ((), ()))),
            # Else float32 would be rounded to bfloat16.
            precision=lax.Precision.HIGHEST if self.precise else None,
            preferred_element_type=jnp.float32,
        )


class At:
    """A program: its place in the grid, (b, h, i, j), and the references it reads and writes."""

    def __init__(self, call: Call, places: Any, seeds: Any, refs: SimpleNamespace) -> None:
        self.call, self.refs = call, refs
        self.b, self.h, self.i, self.j = map(pl.program_id, range(4))
        self.offset, self.start, self.seeds = places[0], places[1], seeds
        runs = [places[n] for n in range(2, places.shape[0])]
        self.runs = (runs[:3], runs[3:]) if runs else None

    @property
    def first(self) -> Any:
        """Whether this is the first stretch."""
        return self.j == 0

    @property
    def last(self) -> Any:
        """Whether this is the last stretch."""
        return self.j == self.call.there.stretches - 1

    def walk(self, visit: Callable[..., None]) -> None:
        """`visit(block, masked)` for the blocks of this stretch that positions leave, masked where
        they hide a part; several at a time of the others, which the compiler interleaves.
        """
        call, spec = self.call, self.call.spec
        ends = call.reach(self.i, self.offset, call.there.size, call.there.blocks)
        start = self.j * call.there.stretch
        low, whole, part, high = (jnp.clip(x, start, start + call.there.stretch) for x in ends)
        whole = jnp.clip(whole, low, high)
        part = jnp.clip(part, whole, high)
        before, after = (spec.left, spec.right)[:: -1 if call.by_keys else 1]
        if before is not None:
            _each(low, whole, 1, partial(visit, masked=True))
        _each(whole, part, call.together, partial(visit, masked=False))
        if after is not None or call.ragged:
            _each(part, high, 1, partial(visit, masked=True))

    def there(self, name: str, block: Any) -> Array:
        """A block of this stretch: [size, K], or of rows [1, size]."""
        ref, size = getattr(self.refs, name), self.call.there.size
        local = block - self.j * self.call.there.stretch
        if len(ref.shape) == 5:
            return ref[0, 0, jnp.minimum(local, ref.shape[2] - 1)]
        return ref[0, 0, pl.ds(pl.multiple_of(local * size, size), size), :]

    def positions(self, block: Any) -> tuple[Array, Array]:
        """Of queries and keys, [here, there]."""
        shape = self.call.here.size, self.call.there.size
        here = self.i * shape[0] + lax.broadcasted_iota(jnp.int32, shape, 0)
        there = block * shape[1] + lax.broadcasted_iota(jnp.int32, shape, 1)
        return (there, here) if self.call.by_keys else (here, there)

    def logits(self, here: Array, there: Array, block: Any, masked: bool) -> tuple[Array, Any]:
        """[here, there] in units of log 2, and the derivative of the cap, or 1."""
        call, cap, slope = self.call, self.call.spec.soft_cap, 1
        logits = call.dot(here, there, (1, 1))
        if cap is not None:
            bent = jnp.tanh(logits * (1 / cap))
            logits, slope = bent * (cap * LOG2E), 1 - bent * bent
        if hasattr(self.refs, "bias"):
            logits = jnp.maximum(logits + self.there("bias", block), HIDDEN)
        for seen in self._seen(block, masked):
            logits = jnp.where(seen, logits, HIDDEN)
        return logits, slope

    def _seen(self, block: Any, masked: bool) -> list[Array]:
        seen = []
        if masked:
            queries, keys = self.positions(block)
            band = in_band(self.call.spec, queries + self.offset, keys)
            seen += [] if band is None else [band]
            side = self.call.here if self.call.by_keys else self.call.there
            seen += [keys < side.count] if self.call.ragged else []
        if hasattr(self.refs, "segments_here"):
            seen.append(self.refs.segments_here[0] == self.there("segments_there", block))
        return seen

    def dropout(self, block: Any) -> Callable[[Array], Array]:
        """Takes from an array [here, there] what dropout drops."""
        rate = self.call.spec.dropout
        if not rate:
            return lambda x: x
        seed = self.seeds[self.b * self.call.heads + self.h]
        queries, keys = self.positions(block)
        places = queries + self.start, keys
        if self.runs:
            places = map(standing, self.runs, places)
        stay = kept(rate, jnp.full_like(keys, seed), *places)
        return lambda x: jnp.where(stay, x / (1 - rate), 0)


def scaled(spec: Spec, q: Array) -> Array:
    """Queries whose products with keys are logits in units of log 2, if no cap bends them."""
    return (q.astype(jnp.float32) * (spec.scale * unit(spec))).astype(q.dtype)


def unit(spec: Spec) -> float:
    """By what queries are multiplied beside the scale."""
    return LOG2E if spec.soft_cap is None else 1.0


def padded(x: Array, axis: int, size: int, value: float = 0) -> Array:
    """`x` of `size` along `axis`."""
    if x.shape[axis] == size:
        return x
    sides = [(0, size - n if d == axis else 0) for d, n in enumerate(x.shape)]
    return jnp.pad(x, sides, constant_values=value)


def _each(low: Any, high: Any, together: int, visit: Callable[[Any], None]) -> None:
    """`visit` of low to high - 1, several at a time and then the rest."""
    high = jnp.maximum(high, low)
    turns = lax.div(high - low, jnp.int32(together))

    def several(turn, _):
        for n in range(together):
            visit(low + turn * together + n)

    lax.fori_loop(0, turns, several, None)
    if together > 1:
        lax.fori_loop(low + turns * together, high, lambda n, _: visit(n), None)


def _block(position: Any, size: int) -> Any:
    """The block in which a position lies; the first for those before."""
    if size == 1:
        return position
    # Mosaic asks the present device before it rounds a quotient down, and there may be none.
    return lax.div(jnp.maximum(position, 0), jnp.int32(size))


def _bytes(block: tuple[int, ...], dtype: Any) -> int:
    """What a block takes in fast memory, in tiles of 8 rows of lanes."""
    *many, rows, columns = block
    tiles = math.prod(many) * -(-rows // 8) * -(-columns // LANES)
    return tiles * 8 * LANES * jnp.dtype(dtype).itemsize


def _even(count: int, most: int, unit: int) -> int:
    """`count` cut into as few equal parts of at most `most` as will do, in multiples of `unit`."""
    parts = -(-count // most)
    return -(-count // (parts * unit)) * unit
