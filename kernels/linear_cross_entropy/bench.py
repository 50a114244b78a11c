"""Time and memory of the loss with its gradients, beside what JAX alone offers, on one CPU that may
play several devices between which the vocabulary is divided.

Run:    JAX_PLATFORMS=cpu python -m jaxdl.kernels.linear_cross_entropy.bench [--model 4]
Beside others, on one device: `jaxdl bench kernels --peers`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

CHUNK = 256
"""Rows of logits at a time in the scan."""


def main() -> None:
    """Prints a row of a Markdown table for each, of runs taken in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=50_304)
    parser.add_argument("--model", type=int, default=1, help="devices that share the vocabulary")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    devices = f"--xla_force_host_platform_device_count={given.model}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
    arrays, ready = _compiled(given)
    took = {name: [] for name in ready}
    for i in range(given.rounds):
        for name in list(ready) if i % 2 else reversed(ready):
            took[name].append(_seconds(ready[name], arrays))
    for name, run in ready.items():
        wall, cpu = (1e3 * statistics.median(each) for each in zip(*took[name], strict=True))
        pairs = zip(took[name], took["all logits"], strict=True)
        ratio = statistics.median(mine[1] / theirs[1] for mine, theirs in pairs)
        memory = run.memory_analysis().temp_size_in_bytes / 2**20
        shape = f"{given.rows} x {given.width} x {given.vocab} over {given.model}"
        print(f"| {shape} | {name} | {wall:.0f} | {cpu:.0f} | {ratio:.2f} | {memory:.0f} |")


def contenders(mesh: Any) -> dict[str, Callable]:
    """Functions of x [N, D], the table [V, D] and labels [N]: the total and its gradients.

    The first two are left to the compiler to divide, by the table that is.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax
    from jax.sharding import PartitionSpec

    from jaxdl.kernels.linear_cross_entropy import chunked
    from jaxdl.kernels.linear_cross_entropy.reference import Loss

    def all_logits(x, table, labels):
        logits = jnp.einsum("nd,vd->nv", x, table)
        gold = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
        return (jax.nn.logsumexp(logits, -1) - gold).sum()

    def scan(x, table, labels):
        part = jax.checkpoint(lambda rows: all_logits(rows[0], table, rows[1]))
        return lax.map(part, (x.reshape(-1, CHUNK, x.shape[1]), labels.reshape(-1, CHUNK))).sum()

    def ours(x, table, labels):
        loss = Loss(tied=True, vocab=mesh.size * table.shape[0], z=0.0, smoothing=0.0, cap=0.0)
        given = x, table, None, labels, jnp.ones(labels.shape)
        (total, _), (dx, dw, *_) = chunked.gradients(
            *given, loss, ("model",), tile=chunked.CPU_TILE
        )
        return total, (lax.psum(dx, "model"), dw)

    all_of, divided = PartitionSpec(), PartitionSpec("model")
    return {
        "all logits": jax.value_and_grad(all_logits, argnums=(0, 1)),
        f"scan of {CHUNK} rows": jax.value_and_grad(scan, argnums=(0, 1)),
        "ours": jax.shard_map(
            ours,
            mesh=mesh,
            in_specs=(all_of, divided, all_of),
            out_specs=(all_of, (all_of, divided)),
            check_vma=False,
        ),
    }


def _compiled(given: argparse.Namespace) -> tuple[tuple, dict[str, Any]]:
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((given.model,), ("model",), axis_types=(AxisType.Auto,))
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = (
        jax.random.normal(keys[0], (given.rows, given.width)),
        given.width**-0.5 * jax.random.normal(keys[1], (given.vocab, given.width)),
        jax.random.randint(keys[2], (given.rows,), 0, given.vocab),
    )
    specs = PartitionSpec(), PartitionSpec("model"), PartitionSpec()
    places = tuple(NamedSharding(mesh, spec) for spec in specs)
    results = places[0], places[:2]
    arrays = jax.device_put(arrays, places)
    return arrays, {
        name: jax.jit(run, out_shardings=results).lower(*arrays).compile()
        for name, run in contenders(mesh).items()
    }


def _seconds(run: Callable, arrays: tuple) -> tuple[float, float]:
    """Of the clock and of the processor."""
    import jax

    start = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(*arrays))
    return time.perf_counter() - start[0], time.process_time() - start[1]


if __name__ == "__main__":
    main()
