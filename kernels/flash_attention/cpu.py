"""Attention by blocks in plain XLA, made for CPUs: one head of keys at a time, blocks that caches
hold, and products laid out as XLA's are fast (README.md has the measurements).

B batch, T queries, S keys, H = G N heads in groups of N, K head size, V size of values. A block of
queries has R = N r rows, the same r positions of N heads; a block of keys has C columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxdl.kernels.flash_attention import few
from jaxdl.kernels.flash_attention.blocks import CpuBlocks, on_cpu
from jaxdl.kernels.flash_attention.spec import (
    EMPTY,
    FAR,
    HIDDEN,
    Extras,
    Spec,
    capped,
    in_band,
    kept,
    standing,
)


def forward(
    spec: Spec, q: Array, k: Array, v: Array, extras: Extras, blocks: CpuBlocks | None = None
) -> tuple[Array, Array]:
    """As the reference; softmax by blocks (Milakov and Gimelshein 2018, arXiv:1805.02867)."""
    if few.fits(q, k):
        return few.forward(spec, q, k, v, extras)[:2]
    work = Work.of(spec, q, k, extras, blocks)

    def head(at):
        q, k, v, place = at
        return lax.map(lambda row: _attended(work, place, row, k, v), (jnp.arange(work.n), q))

    y, lse = lax.map(head, (*work.blocks(q, k, v), jnp.arange(work.batch * work.groups)))
    y = work.joined_queries(y).astype(q.dtype)
    return y, work.joined_queries(lse[..., None])[..., 0].swapaxes(1, 2)


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
    blocks: CpuBlocks | None = None,
) -> tuple[Array, Array, Array, Array | None]:
    """As the reference: the weights once more from `lse` (Dao et al. 2022, arXiv:2205.14135)."""
    if few.fits(q, k):
        weights = few.recalled(spec, q, k, extras, lse)
        return few.backward(spec, wanted_bias, q, k, v, extras, y, weights, dy, dlse)
    work = Work.of(spec, q, k, extras, blocks)
    inner = jnp.einsum("bthv,bthv->bth", dy, y, preferred_element_type=work.kind)
    inner -= dlse.swapaxes(1, 2)
    lse = jnp.where(jnp.isneginf(lse), FAR, lse).swapaxes(1, 2)
    lse = _padded(lse, 1, work.n * work.r, constant_values=FAR)
    rows = [work.query_blocks(x) for x in (dy, lse[..., None], inner[..., None])]
    bias = jnp.zeros_like(work.bias) if wanted_bias else None

    def head(bias, at):
        q, k, v, dy, lse, inner, place = at
        zero = jnp.zeros((work.m, k.shape[-1], work.c), work.kind)
        carry = bias, zero, jnp.zeros((work.m, v.shape[-1], work.c), work.kind)

        def row(carry, at):
            return _row_gradients(work, place, carry, at, k, v)

        (bias, dk, dv), dq = lax.scan(row, carry, (jnp.arange(work.n), q, dy, lse, inner))
        return bias, (dq, dk, dv)

    heads = jnp.arange(work.batch * work.groups)
    bias, (dq, dk, dv) = lax.scan(head, bias, (*work.blocks(q, k, v), *rows, heads))
    kind = spec.of_gradient(q.dtype)
    dq = (work.joined_queries(dq) * spec.scale).astype(kind)
    dk, dv = (work.joined_keys(dx.swapaxes(-1, -2)).astype(kind) for dx in (dk, dv))
    return dq, dk, dv, None if bias is None else work.joined_bias(bias, extras.bias)


@dataclass(frozen=True)
class Work:
    """One call in n blocks of r queries and m blocks of c keys.

    Shapes: bias [1 or B, 1 or G, 1 or N, n, 1 or r, m, c], segments [B, n, r] and [B, m, c].
    """

    spec: Spec
    kind: Any
    batch: int
    time: int
    keys: int
    groups: int
    heads: int  # of a group
    n: int
    r: int
    m: int
    c: int
    bias: Array | None
    q_segments: Array | None
    kv_segments: Array | None
    seeds: Array | None
    offset: Array | int
    runs: Array | None

    @classmethod
    def of(
        cls, spec: Spec, q: Array, k: Array, extras: Extras, blocks: CpuBlocks | None = None
    ) -> Work:
        """A call in these blocks, or in those of the table."""
        blocks = blocks or on_cpu(spec.banded, q.shape[-1])
        (batch, time, heads, _), (keys, groups) = q.shape, k.shape[1:3]
        n, r = _even(time, max(blocks.rows * groups // heads, 16))
        m, c = _even(keys, blocks.columns)
        kind = jnp.promote_types(q.dtype, jnp.float32)
        bias = extras.bias
        if bias is not None:
            few, queries = (groups, -1) if bias.shape[1] > 1 else (1, 1), (n, r)
            if bias.shape[2] == 1:
                queries = 1, 1
            bias = _padded(_padded(bias, 2, math.prod(queries)), 3, m * c).astype(kind)
            bias = bias.reshape(bias.shape[0], *few, *queries, m, c)
        segments = [None, None]
        if extras.q_segments is not None:
            pairs = (extras.q_segments, n, r), (extras.kv_segments, m, c)
            # The edge, not a new value: a block's range of segments says whether it is needed.
            segments = [_padded(x, 1, a * b, "edge").reshape(batch, a, b) for x, a, b in pairs]
        seeds = None if extras.seeds is None else extras.seeds.astype(jnp.int32)
        offset = extras.offset if spec.offset is None else spec.offset
        shape = batch, time, keys, groups, heads // groups, n, r, m, c
        return cls(spec, kind, *shape, bias, *segments, seeds, offset, extras.runs)

    def blocks(self, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        """[B G, n, R, K] scaled, [B G, m, C, K] and [B G, m, C, V], all wide."""
        return self.query_blocks(q) * self.spec.scale, self.key_blocks(k), self.key_blocks(v)

    def query_blocks(self, x: Array) -> Array:
        """[B, T, H, K] -> [B G, n, R, K]."""
        x = _padded(x.astype(self.kind), 1, self.n * self.r)
        x = x.reshape(self.batch, self.n, self.r, self.groups, self.heads, x.shape[-1])
        x = x.transpose(0, 3, 1, 4, 2, 5)
        return x.reshape(-1, self.n, self.heads * self.r, x.shape[-1])

    def key_blocks(self, x: Array) -> Array:
        """[B, S, G, K] -> [B G, m, C, K]."""
        x = _padded(x.astype(self.kind), 1, self.m * self.c).swapaxes(1, 2)
        return x.reshape(-1, self.m, self.c, x.shape[-1])

    def joined_queries(self, x: Array) -> Array:
        """[B G, n, R, K] -> [B, T, H, K]."""
        x = x.reshape(self.batch, self.groups, self.n, self.heads, self.r, x.shape[-1])
        x = x.transpose(0, 2, 4, 1, 3, 5)
        return x.reshape(self.batch, self.n * self.r, -1, x.shape[-1])[:, : self.time]

    def joined_keys(self, x: Array) -> Array:
        """[B G, m, C, K] -> [B, S, G, K]."""
        x = x.reshape(self.batch, self.groups, self.m * self.c, x.shape[-1])
        return x[:, :, : self.keys].swapaxes(1, 2)

    def joined_bias(self, x: Array, like: Array) -> Array:
        """The bias, as it was given."""
        x = x.reshape(*like.shape[:2], x.shape[3] * x.shape[4], self.m * self.c)
        return x[:, :, : like.shape[2], : self.keys].astype(like.dtype)

    def rows(self, i: Array) -> Array:
        """Positions of the queries of block i, [R, 1]."""
        return jnp.tile(i * self.r + jnp.arange(self.r, dtype=jnp.int32), self.heads)[:, None]

    def columns(self, j: Array) -> Array:
        """Positions of the keys of block j, [1, C]."""
        return (j * self.c + jnp.arange(self.c, dtype=jnp.int32))[None]

    def span(self, i: Array) -> tuple[Any, Any]:
        """The blocks of keys that queries of block i may see: the first, and the end."""
        low, high, first = 0, self.m, i * self.r + self.offset
        if self.spec.left is not None:
            low = jnp.clip((first - self.spec.left) // self.c, 0, self.m)
        if self.spec.right is not None:
            last = first + self.r - 1 + self.spec.right
            high = jnp.clip(last // self.c + 1, 0, self.m)
        return low, high

    def over_keys(self, place: Array, i: Array, visit: Callable, state: Any) -> Any:
        """Folds `state = visit(j, state)` over the blocks of keys that queries of block i see."""
        if self.q_segments is None:
            return lax.fori_loop(*self.span(i), visit, state)
        mine, theirs = (x[place // self.groups] for x in (self.q_segments, self.kv_segments))
        mine, low, high = mine[i], theirs.min(-1), theirs.max(-1)

        def where_they_meet(j, state):
            meet = (mine.max() >= low[j]) & (mine.min() <= high[j])
            return lax.cond(meet, visit, lambda j, state: state, j, state)

        return lax.fori_loop(*self.span(i), where_they_meet, state)

    def logits(self, place: Array, i: Array, j: Array, q: Array, k: Array) -> tuple[Array, Any]:
        """[R, C], and the derivative of the cap, or 1."""
        logits, slope = jnp.einsum("rk,ck->rc", q, k), 1
        if self.spec.soft_cap is not None:
            logits = capped(logits, self.spec.soft_cap)
            slope = 1 - (logits / self.spec.soft_cap) ** 2
        if self.bias is not None:
            bias = self.bias[self.of_bias(place, i, j)]
            shape = self.heads, self.r, self.c
            logits += jnp.broadcast_to(bias, shape).reshape(-1, self.c)
            logits = jnp.maximum(logits, HIDDEN)
        seen = self.seen(place, i, j)
        return logits if seen is None else jnp.where(seen, logits, HIDDEN), slope

    def of_bias(self, place: Array, i: Array, j: Array) -> tuple:
        """Where block (i, j) of a head lies in the bias."""
        at = place // self.groups, place % self.groups
        b, g = (x if n > 1 else 0 for x, n in zip(at, self.bias.shape[:2], strict=True))
        return b, g, slice(None), i if self.bias.shape[3] > 1 else 0, slice(None), j

    def seen(self, place: Array, i: Array, j: Array) -> Array | None:
        """Which keys of block j the queries of block i see; None: all."""
        columns = self.columns(j)
        seen = in_band(self.spec, self.rows(i) + self.offset, columns)
        conditions = [] if seen is None else [seen]
        if self.m * self.c > self.keys:
            conditions.append(columns < self.keys)
        if self.q_segments is not None:
            b = place // self.groups
            mine = jnp.tile(self.q_segments[b, i], self.heads)[:, None]
            conditions.append(mine == self.kv_segments[b, j][None])
        return math.prod(conditions[1:], start=conditions[0]) if conditions else None

    def keep(self, place: Array, i: Array, j: Array) -> Array | int:
        """By what dropout multiplies the weights of block (i, j)."""
        if not self.spec.dropout:
            return 1
        at = place // self.groups, place % self.groups
        seeds = self.seeds.reshape(self.batch, self.groups, self.heads)[at]
        seeds = jnp.repeat(seeds, self.r)[:, None]
        places = self.rows(i), self.columns(j)
        if self.runs is not None:
            places = map(standing, self.runs, places)
        stays = kept(self.spec.dropout, seeds, *places)
        return jnp.where(stays, jnp.asarray(1 / (1 - self.spec.dropout), self.kind), 0)


def _attended(work: Work, place: Array, row: tuple, k: Array, v: Array) -> tuple[Array, Array]:
    """The result of a block of queries [R, V], and its log-sum-exp [R]."""
    i, q = row

    def visit(j, state):
        y, total, most = state
        logits, _ = work.logits(place, i, j, q, k[j])
        now = jnp.maximum(most, logits.max(-1, keepdims=True))
        weights, fade = jnp.exp(logits - now), jnp.exp(most - now)
        total = total * fade + weights.sum(-1, keepdims=True)
        return y * fade + (weights * work.keep(place, i, j)) @ v[j], total, now

    column = jnp.zeros((q.shape[0], 1), work.kind)
    state = jnp.zeros((q.shape[0], v.shape[-1]), work.kind), column, column + HIDDEN
    y, total, most = work.over_keys(place, i, visit, state)
    some = most > EMPTY
    total = jnp.where(some, total, 1)
    y = jnp.where(some, y / total, 0)
    return y, jnp.where(some, most + jnp.log(total), -jnp.inf)[:, 0]


def _row_gradients(work: Work, place: Array, carry: tuple, row: tuple, k: Array, v: Array) -> tuple:
    """Adds to (bias [...], dk [m, K, C], dv [m, V, C]) what a block of queries does; its dq."""
    i, q, dy, lse, inner = row

    def visit(j, state):
        bias, dk, dv, dq = state
        logits, slope = work.logits(place, i, j, q, k[j])
        weights, keep = jnp.exp(logits - lse), work.keep(place, i, j)
        dlogits = weights * (jnp.einsum("rv,cv->rc", dy, v[j]) * keep - inner)
        if bias is not None:
            bias = bias.at[work.of_bias(place, i, j)].add(_summed(work, dlogits))
        dlogits = dlogits * slope
        # Few rows from the left: XLA:CPU turns a large left factor round, which takes longer.
        dv = dv.at[j].add(jnp.einsum("rv,rc->vc", dy, weights * keep))
        dk = dk.at[j].add(jnp.einsum("rk,rc->kc", q, dlogits))
        return bias, dk, dv, dq + dlogits @ k[j]

    *carry, dq = work.over_keys(place, i, visit, (*carry, jnp.zeros_like(q)))
    return tuple(carry), dq


def _summed(work: Work, dlogits: Array) -> Array:
    """[R, C] -> [1 or N, 1 or r, C], as the bias was spread."""
    dlogits = dlogits.reshape(work.heads, work.r, work.c)
    spread = [dim for dim, at in ((0, 2), (1, 4)) if work.bias.shape[at] == 1]
    return dlogits.sum(spread, keepdims=True)


def _even(count: int, most: int) -> tuple[int, int]:
    """Blocks of at most about `most`, equally long: how many, and how long."""
    blocks = -(-count // most)
    return blocks, -(-count // (8 * blocks)) * 8


def _padded(x: Array, axis: int, size: int, mode: str = "constant", **how: float) -> Array:
    if x.shape[axis] == size:
        return x
    sides = [(0, size - n if d == axis else 0) for d, n in enumerate(x.shape)]
    return jnp.pad(x, sides, mode, **how)
