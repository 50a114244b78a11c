"""All kernels on the GPU of this machine: first parity of every feature, then times beside every
peer that imports (cuDNN, tokamax, XLA).

Run:    python -m jaxdl.bench.kernels_gpu OUT.json      # under 8 minutes; later cases are left out
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.bench import machine
from jaxdl.bench.kernels import Attention, LayerNorm, LinearCrossEntropy, Workload
from jaxdl.bench.parity import ATTENTION, parity
from jaxdl.bench.peers.kernels import FUNCTIONS

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "tokamax", "flax")
SECONDS = 7.5 * 60
ROUNDS, CALLS = 5, 20
TOKENS = 2**14
DENSE = 4096
"""The longest sequence for which all logits are held."""


@dataclass(frozen=True)
class Plan:
    """What is timed; small on a machine that only tries the script out."""

    workloads: tuple[Workload, ...]
    matmul: int
    copy: int
    calls: int = CALLS
    parity: tuple[str, ...] = tuple(ATTENTION)


def attention(time: int, size: int, causal: bool, gradient: bool) -> Attention:
    """Sixteen thousand tokens of bf16 in 16 heads."""
    return Attention(time, gradient, TOKENS // time, 16, size, causal, "bfloat16")


FULL = Plan(
    workloads=(
        *(
            attention(*shape)
            for shape in product((2048, 8192, 4096, 16384), (128, 64), (True, False), (False, True))
        ),
        *(LayerNorm(16384, width, back, "bfloat16") for width in (4096, 8192) for back in (0, 1)),
        *(
            LinearCrossEntropy(8192, 2048, vocab, back, "bfloat16")
            for vocab in (50_304, 131_072, 262_144)
            for back in (False, True)
        ),
    ),
    matmul=8192,
    copy=2**30,
)
TINY = Plan(
    workloads=(
        replace(attention(512, 16, True, True), batch=1, heads=2, dtype="float32"),
        LayerNorm(64, 32, True),
        LinearCrossEntropy(256, 16, 100),
    ),
    matmul=64,
    copy=2**16,
    calls=1,
    parity=("dropout",),
)


def peers_of(work: Workload) -> Mapping[str, Callable]:
    """By name, functions of the workload's arrays; what needs too much memory is left out."""
    found = {p: partial(fn, work) for (op, p), fn in FUNCTIONS.items() if op == work.op}
    if isinstance(work, Attention):
        if work.time > DENSE:
            del found["naive"], found["xla"]
        dpa = partial(jax.nn.dot_product_attention, is_causal=work.causal)
        found["cudnn"] = partial(dpa, implementation="cudnn")
    try:
        import tokamax
    except ImportError:
        return found
    if isinstance(work, Attention):
        for name in ("mosaic", "triton"):
            fn = partial(tokamax.dot_product_attention, is_causal=work.causal, implementation=name)
            found[f"tokamax {name}"] = fn
    if isinstance(work, LayerNorm):
        found["tokamax"] = partial(tokamax.layer_norm, epsilon=1e-5)
    return found


def timed(work: Workload, calls: int) -> dict[str, Any]:
    """Milliseconds by peer, medians of rounds in turns; why not, where a peer cannot."""
    arrays = [jnp.asarray(x, work.dtype if x.dtype.kind == "f" else None) for x in work.arrays()]
    ready, told = {}, {}
    for name, function in peers_of(work).items():
        try:
            ready[name] = _compiled(function, work, arrays)
            jax.block_until_ready(ready[name](*arrays))
        except Exception as error:  # the other peers are timed still
            told[name] = f"{type(error).__name__}: {error}".split("\n")[0][:300]
    taken: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(ROUNDS):
        for name, run in ready.items():
            taken[name].append(_seconds(run, arrays, calls))
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in taken.items()}
    temp = {name: run.memory_analysis().temp_size_in_bytes / 2**20 for name, run in ready.items()}
    return {"op": work.op, **vars(work), "ms": ms, "temp_mb": temp, "errors": told}


def ceilings(plan: Plan) -> dict[str, float]:
    """What the device gives at most: TFLOP/s of a bf16 product, GB/s of a copy."""
    n = plan.matmul
    x = jnp.ones((n, n), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x).lower(x).compile()
    block = jnp.ones(plan.copy // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1).lower(block).compile()
    seconds = [
        statistics.median(_seconds(run, [given], plan.calls) for _ in range(ROUNDS))
        for run, given in ((product, x), (copy, block))
    ]
    return {
        "matmul_tflops": 2e-12 * n**3 / seconds[0],
        "copy_gb_per_s": 2e-9 * plan.copy / seconds[1],
    }


def _compiled(function: Callable, work: Workload, arrays: list[Array]) -> Any:
    places = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]

    def both(dy, *arrays):
        def of_floats(*floats):
            return function(*(dict(zip(places, floats, strict=True)).get(i, x) for i, x in every))

        every = list(enumerate(arrays))
        return jax.vjp(of_floats, *(arrays[i] for i in places))[1](dy)

    if not work.gradient:
        return jax.jit(function).lower(*arrays).compile()
    y = jax.eval_shape(function, *arrays)
    dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)
    return _Given(jax.jit(both).lower(dy, *arrays).compile(), dy)


@dataclass(frozen=True)
class _Given:
    """A compiled function with its first argument."""

    run: Any
    first: Array

    def __call__(self, *args: Array) -> Any:
        return self.run(self.first, *args)

    def memory_analysis(self) -> Any:
        return self.run.memory_analysis()


def _seconds(run: Callable, arrays: list[Array], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        found = run(*arrays)
    jax.block_until_ready(found)
    return (time.perf_counter() - start) / calls


def records(plan: Plan, seconds: float) -> Iterator[dict[str, Any]]:
    """Where, parity, ceilings and times, each as soon as it is known."""
    end = time.monotonic() + seconds
    device = jax.devices()[0].device_kind
    yield {"kind": "machine", "device": device, **machine.describe(PACKAGES)}
    for record in parity(plan.parity):
        yield {"kind": "parity", **record}
    yield {"kind": "ceilings", **ceilings(plan)}
    for work in plan.workloads:
        if time.monotonic() > end:
            yield {"kind": "left out", "op": work.op, **vars(work)}
        else:
            yield {"kind": "times", **timed(work, plan.calls)}


def main() -> int:
    """Writes the records, one a line; exit code 1 where parity fails."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    plan, fine = TINY if "--tiny" in sys.argv else FULL, True
    with Path(sys.argv[1]).open("w") as out:
        for record in records(plan, SECONDS):
            fine &= record.get("fine", True)
            print(json.dumps(record), file=out, flush=True)
            print(json.dumps(record), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
