"""Single kernels, jaxdl's and what a user would pick instead, on the same random arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.bench import kernels
from jaxdl.bench.kernels import Attention, LayerNorm, LinearCrossEntropy
from jaxdl.kernels.flash_attention import flash_attention
from jaxdl.kernels.flash_attention.bench import chunked, naive
from jaxdl.kernels.layer_norm import layer_norm
from jaxdl.kernels.linear_cross_entropy import linear_cross_entropy

CHUNK = 256
"""Rows of logits at a time in what is `chunked` by hand."""


def run(peer: str, op: str, **shape: Any) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Runs a peer's function of the workload n times."""
    work = kernels.of(op, **shape)
    function = partial(FUNCTIONS[op, peer], work)
    arrays = [jnp.asarray(x, work.dtype if x.dtype.kind == "f" else None) for x in work.arrays()]
    floats = tuple(i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating))
    if work.gradient:
        # Of a loss that is not the plain sum, whose gradient a compiler might see through; and with
        # its value, lest the compiler leave out the forward pass of what computes it twice.
        function = jax.value_and_grad(partial(_loss, function), floats)
    compiled = jax.jit(function).lower(*arrays).compile()

    def go(n: int) -> None:
        for _ in range(n):
            jax.block_until_ready(compiled(*arrays))

    memory = compiled.memory_analysis()
    temp = None if memory is None else memory.temp_size_in_bytes / 2**20
    return go, {"temp_mb": temp, "device": jax.devices()[0].device_kind}


def _loss(function: Callable, *arrays: Array) -> Array:
    y = function(*arrays)
    return (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum()


def _own_attention(work: Attention, q: Array, k: Array, v: Array) -> Array:
    return flash_attention(q, k, v, causal=work.causal)


def _naive_attention(work: Attention, q: Array, k: Array, v: Array) -> Array:
    return naive(q, k, v, work.causal)


def _chunked_attention(work: Attention, q: Array, k: Array, v: Array) -> Array:
    return chunked(q, k, v, work.causal)


def _xla_attention(work: Attention, q: Array, k: Array, v: Array) -> Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=work.causal)


def _own_norm(work: LayerNorm, x: Array, scale: Array, bias: Array) -> Array:
    return layer_norm(x, scale, bias)


def _naive_norm(work: LayerNorm, x: Array, scale: Array, bias: Array) -> Array:
    wide = x.astype(jnp.float32)
    y = (wide - wide.mean(-1, keepdims=True)) * jax.lax.rsqrt(wide.var(-1, keepdims=True) + 1e-5)
    return (y * scale[None] + bias[None]).astype(x.dtype)


def _own_entropy(work: LinearCrossEntropy, x: Array, table: Array, labels: Array) -> Array:
    return linear_cross_entropy(x, table, labels, tied=True).total


def _naive_entropy(work: LinearCrossEntropy, x: Array, table: Array, labels: Array) -> Array:
    logits = jnp.einsum("nd,vd->nv", x, table, preferred_element_type=jnp.float32)
    gold = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
    return (jax.nn.logsumexp(logits, -1) - gold).sum()


def _chunked_entropy(work: LinearCrossEntropy, x: Array, table: Array, labels: Array) -> Array:
    @jax.checkpoint
    def part(x, labels):
        return _naive_entropy(work, x, table, labels)

    rows = x.reshape(-1, CHUNK, work.width), labels.reshape(-1, CHUNK)
    return jax.lax.map(lambda row: part(*row), rows).sum()


FUNCTIONS = {
    ("attention", "jaxdl"): _own_attention,
    ("attention", "naive"): _naive_attention,
    ("attention", "chunked"): _chunked_attention,
    ("attention", "xla"): _xla_attention,
    ("layer_norm", "jaxdl"): _own_norm,
    ("layer_norm", "naive"): _naive_norm,
    ("linear_cross_entropy", "jaxdl"): _own_entropy,
    ("linear_cross_entropy", "naive"): _naive_entropy,
    ("linear_cross_entropy", "chunked"): _chunked_entropy,
}
