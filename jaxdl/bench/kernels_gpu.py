"""All kernels on the GPU of this machine: first parity of every feature, then times beside every
peer that imports (cuDNN, tokamax, XLA).

Forward and backward are timed each by itself, but for the cross-entropy, which may make gradients
on its way forward: there it is one pass, and both. Beside milliseconds stands the fraction of what
the device gives at most: of a product's rate, or of a copy's for the norm. Tokamax tunes itself as
long as there is time for it.

Run:    python -m jaxdl.bench.kernels_gpu OUT.json      # under 8 minutes; later cases are left out
Peers:  cuDNN comes with JAX's CUDA packages; jaxdl.bench.peers.tokamaxed says how tokamax does.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
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
from jaxdl.bench.peers.tokamaxed import tokamax as import_tokamax

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "tokamax", "flax")
SECONDS, TUNING = 7 * 60, 3 * 60
"""After which no case is begun, and nothing tuned."""
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
        tokamax = import_tokamax()
    except ImportError:
        return found
    if isinstance(work, Attention):
        for name in ("mosaic", "triton"):
            fn = partial(tokamax.dot_product_attention, is_causal=work.causal, implementation=name)
            found[f"tokamax {name}"] = fn
    if isinstance(work, LayerNorm):
        fn = partial(tokamax.layer_norm, epsilon=1e-5, implementation="triton")
        found["tokamax triton"] = fn
    return found


def timed(work: Workload, plan: Plan, limits: Mapping[str, float], tune: bool) -> dict[str, Any]:
    """Milliseconds by peer, medians of rounds in turns; why not, where a peer cannot."""
    arrays = [jnp.asarray(x, work.dtype if x.dtype.kind == "f" else None) for x in work.arrays()]
    ready, told, tuned = {}, {}, []
    for name, function in peers_of(work).items():
        choice = nullcontext()
        if tune and name.startswith("tokamax"):
            try:
                choice = _tuned(function, arrays)
                tuned.append(name)
            except Exception as error:  # its own guess is timed still
                told[f"{name}, tuned"] = _said(error)
        try:
            with choice:
                run = _compiled(function, work, arrays)
            jax.block_until_ready(run())
            ready[name] = run
        except Exception as error:  # the other peers are timed still
            told[name] = _said(error)
    taken: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(ROUNDS):
        for name, run in ready.items():
            taken[name].append(_seconds(run, plan.calls))
    seconds = {name: statistics.median(each) for name, each in taken.items()}
    unit, least = at_least(work)
    return {
        **{"op": work.op, "pass": passes(work), **vars(work)},
        "ms": {name: 1e3 * each for name, each in seconds.items()},
        "fraction": {name: least / limits[unit] / each for name, each in seconds.items()},
        "temp_mb": {name: run.temp / 2**20 for name, run in ready.items()},
        **{"tuned": tuned, "errors": told},
    }


def passes(work: Workload) -> str:
    """What is timed."""
    if not work.gradient:
        return "forward"
    return "both" if isinstance(work, LinearCrossEntropy) else "backward"


def at_least(work: Workload) -> tuple[str, float]:
    """Which of `ceilings` bounds the workload, and how much of its unit that takes at least: 10^12
    operations, or 10^9 bytes read and written.
    """
    if isinstance(work, LayerNorm):
        arrays = 3 if work.gradient else 2
        return "copy_gb_per_s", 1e-9 * arrays * work.rows * work.width * jnp.dtype(
            work.dtype
        ).itemsize
    if isinstance(work, Attention):
        product = 2 * work.batch * work.heads * work.time**2 * work.size / (1 + work.causal)
        return "matmul_tflops", 1e-12 * product * (5 if work.gradient else 2)
    product = 2 * work.rows * work.width * work.vocab
    return "matmul_tflops", 1e-12 * product * (3 if work.gradient else 1)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def _tuned(function: Callable, arrays: list[Array]) -> AbstractContextManager:
    """Tokamax's choice of blocks for both directions, of use in the context that it is.

    Raises:
        ValueError: it found nothing to choose.
    """

    def both(*arrays):
        y, pull = jax.vjp(function, *arrays)
        return y, pull(y)

    found = import_tokamax().autotune(both, *arrays, progress_bar=False)
    if not found.data:
        raise ValueError("nothing was tuned.")
    return found


def ceilings(plan: Plan) -> dict[str, float]:
    """What the device gives at most: TFLOP/s of a bf16 product, GB/s of a copy."""
    n = plan.matmul
    x = jnp.ones((n, n), jnp.bfloat16)
    block = jnp.ones(plan.copy // 4, jnp.float32)
    runs = Run.of(lambda x: x @ x, x), Run.of(lambda x: x + 1, block)
    seconds = [
        statistics.median(_seconds(run, plan.calls) for _ in range(ROUNDS + 1)) for run in runs
    ]
    return {
        "matmul_tflops": 2e-12 * n**3 / seconds[0],
        "copy_gb_per_s": 2e-9 * plan.copy / seconds[1],
    }


@dataclass(frozen=True)
class Run:
    """A compiled program with what it is given, and bytes of temporary memory."""

    program: Any
    given: tuple
    temp: int

    @classmethod
    def of(cls, function: Callable, *given: Any) -> Run:
        """Compiles it."""
        program = jax.jit(function).lower(*given).compile()
        return cls(program, given, program.memory_analysis().temp_size_in_bytes)

    def __call__(self) -> Any:
        """What the program returns."""
        return self.program(*self.given)


def _compiled(function: Callable, work: Workload, arrays: list[Array]) -> Run:
    floats = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]

    def pulled(*arrays):
        def of_floats(*given):
            changed = dict(enumerate(arrays)) | dict(zip(floats, given, strict=True))
            return function(*changed.values())

        return jax.vjp(of_floats, *(arrays[i] for i in floats))[1]

    if passes(work) == "forward":
        return Run.of(function, *arrays)
    y = jax.eval_shape(function, *arrays)
    dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)
    if passes(work) == "both":
        return Run.of(lambda dy, *arrays: pulled(*arrays)(dy), dy, *arrays)
    return Run.of(lambda pull, dy: pull(dy), jax.jit(pulled)(*arrays), dy)


def _seconds(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        found = run()
    jax.block_until_ready(found)
    return (time.perf_counter() - start) / calls


def records(plan: Plan, seconds: float) -> Iterator[dict[str, Any]]:
    """Where, parity, ceilings and times, each as soon as it is known."""
    start = time.monotonic()
    device = jax.devices()[0].device_kind
    yield {"kind": "machine", "device": device, **machine.describe(PACKAGES)}
    for record in parity(plan.parity):
        yield {"kind": "parity", **record}
    limits = ceilings(plan)
    yield {"kind": "ceilings", **limits}
    for work in plan.workloads:
        spent = time.monotonic() - start
        if spent > seconds:
            yield {"kind": "left out", "op": work.op, **vars(work)}
        else:
            yield {"kind": "times", **timed(work, plan, limits, tune=spent < TUNING)}


def main() -> int:
    """Writes the records, one a line; exit code 1 where parity fails."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    plan, fine, path = TINY if "--tiny" in sys.argv else FULL, True, Path(sys.argv[1])
    del sys.argv[1:]  # else tokamax reads them, and knows none
    with path.open("w") as out:
        for record in records(plan, SECONDS):
            fine &= record.get("fine", True)
            print(json.dumps(record), file=out, flush=True)
            print(json.dumps(record), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
