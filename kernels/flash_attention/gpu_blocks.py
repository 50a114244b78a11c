"""What a program of attention on an NVIDIA GPU computes of its blocks; `gpu.py` calls the kernels.

Lengths and sizes are padded: r and c divide T and S, and sizes are powers of two. Logits are in
units of log 2, since exp2 is what the hardware has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxdl.kernels.flash_attention.spec import EMPTY, HIDDEN, Spec, in_band, kept, standing
from jaxdl.kernels.flash_attention.tiles import Tile

LOG2E = math.log2(math.e)
PRECISE = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
"""How float32 is multiplied: as three products of tensor cores, about as exact as itself."""


@dataclass(frozen=True)
class Sizes:
    """Of one kernel. The grid is (B, H, blocks of queries), or (B, G, blocks of keys) if a program
    `keeps_keys`.

    Heads that are `wide` leave few registers: their gradients of keys and of values are summed up
    apart, and their masked blocks have no loops of their own.
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


@dataclass(frozen=True)
class Meeting:
    """What a program computes where a block of queries meets one of keys."""

    call: Sizes
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


def forward_kernel(meet: Meeting, refs: SimpleNamespace) -> None:
    """y and the log-sum-exp of a block of queries."""
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


def dq_kernel(meet: Meeting, refs: SimpleNamespace) -> None:
    """The gradient of a block of queries."""
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


def dkv_kernel(meet: Meeting, refs: SimpleNamespace) -> None:
    """The gradients of a block of keys and of values, or the one that there is room for."""
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
