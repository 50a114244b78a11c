"""Processor time and memory of the loss with its gradients, beside what JAX alone offers.

Run:    python -m jaxdl.kernels.linear_cross_entropy.bench [rows features tokens]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.kernels.linear_cross_entropy import chunked, reference
from jaxdl.kernels.linear_cross_entropy.reference import Loss

SHAPE = (1024, 384, 50257)
ROUNDS = 5


def contenders(x: Array, w: Array, labels: Array) -> dict[str, Callable]:
    """Functions of x and w: the total and its gradients by both."""
    weights = jnp.ones(labels.shape)
    loss = Loss(tied=True, vocab=w.shape[0], z=0.0, smoothing=0.0, cap=0.0)

    def part(w, chunk):
        x, labels, weights = chunk
        return reference.forward(x, w, None, labels, weights, loss)[0]

    def scanned(x, w):
        def step(total, chunk):
            return total + jax.checkpoint(part)(w, chunk), None

        chunks = [a.reshape(-1, a.shape[0] // 2, *a.shape[1:]) for a in (x, labels, weights)]
        return lax.scan(step, jnp.float32(0), tuple(chunks))[0]

    def ours(x, w):
        (total, _), (dx, dw, *_) = chunked.gradients(x, w, None, labels, weights, loss)
        return total, (dx, dw)

    gradient = partial(jax.value_and_grad, argnums=(0, 1))
    return {
        "all logits": gradient(lambda x, w: part(w, (x, labels, weights))),
        "scan of two checkpointed halves": gradient(scanned),
        "ours": ours,
    }


def main() -> None:
    """Prints a row of a Markdown table for each, of runs taken in turns."""
    rows, features, tokens = map(int, sys.argv[1:4] or SHAPE)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (rows, features))
    w = 0.02 * jax.random.normal(keys[1], (tokens, features))
    labels = jax.random.randint(keys[2], (rows,), 0, tokens)
    made = contenders(x, w, labels)
    ready = {name: jax.jit(fn).lower(x, w).compile() for name, fn in made.items()}
    best = dict.fromkeys(ready, float("inf"))
    for _ in range(ROUNDS):
        for name, run in ready.items():
            start = time.process_time()
            jax.block_until_ready(run(x, w))
            best[name] = min(best[name], time.process_time() - start)
    for name, run in ready.items():
        memory = run.memory_analysis().temp_size_in_bytes / 1e6
        print(f"| {rows} x {features} x {tokens} | {name} | {best[name]:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
