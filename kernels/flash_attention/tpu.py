"""Attention on a TPU (Pallas, Mosaic): a kernel for each pass; the one back finds all gradients.

B batch, T queries, S keys, H = G N heads in groups of N, K head size, V size of values.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jaxdl.kernels.flash_attention import cpu
from jaxdl.kernels.flash_attention.blocks import TpuBlocks, on_tpu
from jaxdl.kernels.flash_attention.spec import EMPTY, FAR, HIDDEN, Extras, Spec
from jaxdl.kernels.flash_attention.tpu_blocks import LANES, LOG2E, At, Call, scaled, unit

LONGEST = 2**22
"""Elements of the gradient of queries that are in fast memory at once, in float32."""


def refuses(spec: Spec, q: Array, k: Array, extras: Extras, *rest: Any) -> str | None:
    """Why this cannot run, if it cannot."""
    del spec, k, extras, rest
    if q.dtype == jnp.float64 or q.dtype == jnp.float16:
        return f"TPUs have no {q.dtype}; bfloat16 and float32 run"
    if q.shape[-1] > 256:
        return f"a head size of {q.shape[-1]} is above 256, the largest whose blocks fit"
    return None


def forward(
    spec: Spec, q: Array, k: Array, v: Array, extras: Extras, blocks: TpuBlocks | None = None
) -> tuple[Array, Array]:
    """As the reference; in these blocks, or in those of the device's table."""
    blocks = blocks or on_tpu("forward", spec.device, q.shape[-1])
    call = Call.of(spec, q, k, extras, blocks, by_keys=False)
    given = {"q": call.of_here(scaled(spec, q)), "k": call.of_there(k), "v": call.of_there(v)}
    size, rows, shape = v.shape[-1], call.here.size, (call.batch, call.heads)
    out = {
        "y": (
            *((*shape, call.here.padded, size), q.dtype),
            *((1, 1, rows, size), lambda b, h, i, j: (b, h, i, 0)),
        ),
        "lse": (
            *((*shape, 1, call.here.padded), jnp.float32),
            *((1, 1, 1, rows), lambda b, h, i, j: (b, h, 0, i)),
        ),
    }
    sums = {"weighted": (rows, size), "total": (rows, LANES), "most": (rows, LANES)}
    y, lse = call.run(_forward, extras, 0, given | call.masks(extras), out, sums)
    return y[:, :, : q.shape[1]].swapaxes(1, 2), lse[:, :, 0, : q.shape[1]]


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
    blocks: TpuBlocks | None = None,
) -> tuple[Array, Array, Array, Array | None]:
    """As the reference; the gradient of a bias, as large as the logits, is by blocks of XLA."""
    blocks = blocks or on_tpu("backward", spec.device, q.shape[-1])
    bias = None
    if wanted_bias:
        bias = cpu.backward(spec, True, q, k, v, extras, y, lse, dy, dlse)[3]
    inner = jnp.einsum("bthv,bthv->bht", dy, y, preferred_element_type=jnp.float32) - dlse
    lse = jnp.where(jnp.isneginf(lse), FAR, lse * LOG2E)
    wanted = spec.of_gradient(k.dtype)
    rows = LONGEST // max(q.shape[-1], LANES)
    parts = []
    for start in range(0, q.shape[1], rows):
        stop = min(start + rows, q.shape[1])
        some = q[:, start:stop], dy[:, start:stop], lse[:, :, start:stop], inner[:, :, start:stop]
        moved, rest = _from(spec, extras, start, stop)
        kind = wanted if rows >= q.shape[1] else jnp.float32
        parts.append(_gradients(kind, blocks, moved, k, v, rest, start, *some))
    dq, dk, dv = zip(*parts, strict=True)
    dq = jnp.concatenate(dq, 1) if len(dq) > 1 else dq[0]
    return dq, sum(dk[1:], dk[0]).astype(wanted), sum(dv[1:], dv[0]).astype(wanted), bias


def _from(spec: Spec, extras: Extras, start: int, stop: int) -> tuple[Spec, Extras]:
    """The same for queries start to stop - 1."""
    if extras.bias is not None and extras.bias.shape[2] > 1:
        extras = extras._replace(bias=extras.bias[:, :, start:stop])
    if extras.q_segments is not None:
        extras = extras._replace(q_segments=extras.q_segments[:, start:stop])
    if spec.offset is None:
        return spec, extras._replace(offset=extras.offset + start)
    return dataclasses.replace(spec, offset=spec.offset + start), extras


def _gradients(
    kind, blocks, spec, k, v, extras, start, q, dy, lse, inner
) -> tuple[Array, Array, Array]:
    """Those of q, k, v; of k and v in float32 if heads share them, else in `kind`."""
    call = Call.of(spec, q, k, extras, blocks, by_keys=True)
    given = {
        "q": call.of_there(scaled(spec, q)),
        "dy": call.of_there(dy),
        "k": call.of_here(k),
        "v": call.of_here(v),
        "lse": call.rows_there(lse, FAR),
        "inner": call.rows_there(inner),
    }
    shape, rows = (call.batch, call.heads), call.here.size
    shared = call.heads // call.groups
    kind = kind if shared == 1 else jnp.float32
    sizes = {"dk": k.shape[-1], "dv": v.shape[-1]}
    out = {
        name: (
            *((*shape, call.here.padded, size), kind),
            *((1, 1, rows, size), lambda b, h, i, j: (b, h, i, 0)),
        )
        for name, size in sizes.items()
    }
    whole = call.there.padded, q.shape[-1]
    block, place = (1, 1, *whole), lambda b, h, i, j: (b, h, 0, 0)
    out["dq"] = (*shape, *whole), spec.of_gradient(q.dtype), block, place
    sums = {f"{name}_sum": (rows, size) for name, size in sizes.items()}
    sums["dq_sum"] = whole
    dk, dv, dq = call.run(_backward, extras, start, given | call.masks(extras), out, sums)
    dq = dq[:, :, : q.shape[1]].swapaxes(1, 2)
    dk, dv = (dx[:, :, : k.shape[1]].swapaxes(1, 2) for dx in (dk, dv))
    if shared > 1:
        dk, dv = (dx.reshape(*k.shape[:3], shared, -1).sum(3) for dx in (dk, dv))
    return dq, dk, dv


def _forward(at: At) -> None:
    refs, call = at.refs, at.call

    @pl.when(at.first)
    def _():
        refs.weighted[...] = jnp.zeros_like(refs.weighted)
        refs.total[...] = jnp.zeros_like(refs.total)
        refs.most[...] = jnp.full_like(refs.most, HIDDEN)

    def visit(block, masked):
        logits, _ = at.logits(refs.q[0, 0], at.there("k", block), block, masked)
        most = refs.most[...]  # in all lanes the same
        now = jnp.maximum(most, logits.max(1, keepdims=True))
        weights, fade = jnp.exp2(logits - _lanes(now, logits.shape[1])), jnp.exp2(most - now)
        # Summed over lanes only in the end: a sum along lanes costs more than all of this.
        parts = jnp.split(weights, logits.shape[1] // LANES, 1)
        refs.total[...] = refs.total[...] * fade + sum(parts[1:], parts[0])
        refs.most[...] = now
        v = at.there("v", block)
        new = call.dot(at.dropout(block)(weights).astype(v.dtype), v)
        refs.weighted[...] = refs.weighted[...] * _lanes(fade, v.shape[1]) + new

    at.walk(visit)

    @pl.when(at.last)
    def _():
        most, total = refs.most[...], refs.total[...].sum(1, keepdims=True)
        some = most > EMPTY
        total = jnp.where(some, total, 1)
        factor = _lanes(jnp.where(some, 1 / total, 0), refs.y.shape[3])
        y = jnp.where(factor > 0, refs.weighted[...] * factor, 0)
        refs.y[0, 0] = y.astype(refs.y.dtype)
        lse = jnp.where(some, most * (1 / LOG2E) + jnp.log(total), -jnp.inf)
        refs.lse[0, 0] = lse.T[:1]


def _backward(at: At) -> None:
    refs, call = at.refs, at.call

    @pl.when(at.first)
    def _():
        refs.dk_sum[...] = jnp.zeros_like(refs.dk_sum)
        refs.dv_sum[...] = jnp.zeros_like(refs.dv_sum)

    @pl.when(at.first & (at.i == 0))
    def _():
        refs.dq_sum[...] = jnp.zeros_like(refs.dq_sum)

    def visit(block, masked):
        q, dy, k, v = at.there("q", block), at.there("dy", block), refs.k[0, 0], refs.v[0, 0]
        logits, slope = at.logits(k, q, block, masked)
        drop = at.dropout(block)
        weights = jnp.exp2(logits - at.there("lse", block))
        refs.dv_sum[...] += call.dot(drop(weights).astype(dy.dtype), dy)
        dweights = drop(call.dot(v, dy, (1, 1))) - at.there("inner", block)
        dlogits = (weights * dweights * slope).astype(q.dtype)
        refs.dk_sum[...] += call.dot(dlogits, q)
        size = call.there.size
        refs.dq_sum[pl.ds(pl.multiple_of(block * size, size), size)] += call.dot(dlogits, k, (0, 0))

    at.walk(visit)

    @pl.when(at.last)
    def _():
        refs.dk[0, 0] = (refs.dk_sum[...] * (1 / unit(call.spec))).astype(refs.dk.dtype)
        refs.dv[0, 0] = refs.dv_sum[...].astype(refs.dv.dtype)

    @pl.when(at.last & (at.i == call.here.blocks - 1))
    def _():
        refs.dq[0, 0] = (refs.dq_sum[...] * call.spec.scale).astype(refs.dq.dtype)


def _lanes(x: Array, count: int) -> Array:
    """`x` [n, LANES], whose lanes are the same, with `count` of them."""
    return jnp.tile(x, (1, -(-count // LANES)))[:, :count]
