"""Forward and backward of attention on this machine: ours, and what a user would pick instead.

Run:    JAX_PLATFORMS=cpu python -m jaxdl.kernels.flash_attention.bench [--causal] [LENGTH...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.kernels.flash_attention import flash_attention

BATCH, HEADS, SIZE = 2, 8, 64
CHUNK = 256
"""Queries at a time in the chunked peer."""
ROUNDS = 5


def naive(q: Array, k: Array, v: Array, causal: bool, first: Any = 0) -> Array:
    """All logits in memory; the first query stands at key `first`."""
    logits = jnp.einsum("bthk,bshk->bhts", q, k) * q.shape[-1] ** -0.5
    if causal:
        seen = jnp.arange(k.shape[1])[None] <= first + jnp.arange(q.shape[1])[:, None]
        logits = jnp.where(seen[None, None], logits, -1e30)
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(logits), v)


def chunked(q: Array, k: Array, v: Array, causal: bool) -> Array:
    """Some queries at a time, computed again on the way back."""

    @jax.checkpoint
    def chunk(at):
        return naive(at[0], k, v, causal, at[1])

    parts = jnp.moveaxis(q.reshape(q.shape[0], -1, CHUNK, *q.shape[2:]), 1, 0)
    y = lax.map(chunk, (parts, jnp.arange(len(parts)) * CHUNK))
    return jnp.moveaxis(y, 0, 1).reshape(q.shape)


NAMES = "ours", "jax.nn", "naive", "chunked"


def in_jax(
    length: int, causal: bool, names: Sequence[str] = NAMES
) -> dict[str, tuple[Callable[[], Any], float]]:
    """Calls by name, and megabytes of temporary memory."""
    peers = {
        "ours": partial(flash_attention, causal=causal),
        "jax.nn": partial(jax.nn.dot_product_attention, is_causal=causal),
        "naive": partial(naive, causal=causal),
        "chunked": partial(chunked, causal=causal),
    }
    keys = jax.random.split(jax.random.key(0), 4)
    *args, dy = (jax.random.normal(key, (BATCH, length, HEADS, SIZE)) for key in keys)

    def ready(attention):
        loss = jax.grad(lambda *qkv: (attention(*qkv) * dy).sum(), (0, 1, 2))
        run = jax.jit(loss).lower(*args).compile()
        memory = run.memory_analysis().temp_size_in_bytes / 1e6
        return lambda: jax.block_until_ready(run(*args)), memory

    return {name: ready(attention) for name, attention in peers.items() if name in names}


def in_torch(length: int, causal: bool) -> Callable[[], Any]:
    """The same by torch's scaled_dot_product_attention."""
    import torch

    args = [torch.randn(BATCH, HEADS, length, SIZE, requires_grad=True) for _ in range(3)]
    dy = torch.randn(BATCH, HEADS, length, SIZE)

    def run():
        y = torch.nn.functional.scaled_dot_product_attention(*args, is_causal=causal)
        return torch.autograd.grad(y, args, dy)

    return run


def measure(length: int, causal: bool) -> dict[str, dict[str, float | None]]:
    """Medians of wall and processor time in ms, and temporary memory in MB, taken in turns."""
    runs: dict[str, tuple[Callable[[], Any], float | None]] = {**in_jax(length, causal)}
    if find_spec("torch"):
        runs["torch"] = in_torch(length, causal), None
    return in_turns(runs)


def in_turns(
    runs: Mapping[str, tuple[Callable[[], Any], float | None]],
) -> dict[str, dict[str, float | None]]:
    """Medians of wall and processor time of each function in ms, beside its memory in MB."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for name in [*runs] * (ROUNDS + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        runs[name][0]()
        taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            # The first call of each is warm-up.
            "wall_ms": 1e3 * statistics.median(wall for wall, _ in taken[name][1:]),
            "cpu_ms": 1e3 * statistics.median(cpu for _, cpu in taken[name][1:]),
            "temp_mb": memory,
        }
        for name, (_, memory) in runs.items()
    }


def main() -> None:
    """Prints a JSON object for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("lengths", nargs="*", type=int, default=[1024, 2048])
    given = parser.parse_args()
    for length in given.lengths:
        found = measure(length, given.causal)
        print(json.dumps({"length": length, "causal": given.causal, **found}), flush=True)


if __name__ == "__main__":
    main()
