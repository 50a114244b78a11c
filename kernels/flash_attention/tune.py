"""What `jaxdl.kernels.tune` chooses from."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.kernels.flash_attention import cpu, cycles, spills, tiles
from jaxdl.kernels.flash_attention.blocks import CpuBlocks
from jaxdl.kernels.flash_attention.spec import Extras, Spec
from jaxdl.kernels.measure import Blocks, Case

HERE = "jaxdl.kernels.flash_attention."
PASSES = "forward", "backward"
SIZES = 64, 128, 256
LENGTH = 4096
"""On TPUs."""
HEADS = 8
"""On CPUs."""


def cases(platform: str, device: str) -> list[Case]:
    """Those of one platform."""
    if platform == "tpu":
        return [_tpu(direction, size) for direction, size in product(PASSES, SIZES)]
    if platform == "gpu":
        return [_gpu(device, kernel, size) for kernel, size in product(spills.KERNELS, SIZES)]
    return [_cpu(banded, 1024, HEADS, 64) for banded in (False, True)]


def _tpu(direction: str, size: int) -> Case:
    some = product((1024, 512, 2048), (512, 1024), (2, 1))
    return Case(
        *("tpu", direction, size, f"causal, T {LENGTH}, {cycles.HEADS} heads, bfloat16"),
        tuple({"here": here, "there": there, "together": n} for here, there, n in some),
        HERE + "cycles:in_blocks",
        (direction, LENGTH, size),
        only=cycles.KERNELS,
        memory=partial(_logits, 1 if direction == "forward" else 2),
        shape=lambda blocks: (blocks["here"], blocks["there"]),
    )


def _logits(arrays: int, blocks: Blocks) -> int:
    """So many arrays like those of the blocks that are visited at a time, in float32."""
    return arrays * blocks["here"] * blocks["there"] * blocks["together"] * 4


def _gpu(device: str, kernel: str, size: int) -> Case:
    """With the features that take most registers. Logits lie [keys, queries] in dkv, else
    [queries, keys].
    """
    some = [
        {"r": r, "c": c, "warps": rows // 16, "stages": stages}
        for rows, columns, stages in product((64, 128), (64, 32, 128), (2, 3, 1))
        for r, c in [(columns, rows) if kernel == "dkv" else (rows, columns)]
    ]
    return Case(
        *("gpu", kernel, size, f"{' + '.join(spills.PACKED)}, T {spills.LENGTH}, bfloat16"),
        *(tuple(some), HERE + "tune:on_gpu", (device, kernel, size)),
        only="flash_attention",
        memory=lambda blocks: tiles.shared_bytes(kernel, tiles.Tile(**blocks), size, 2),
        traffic=partial(_traffic, kernel, size),
    )


def on_gpu(device: str, kernel: str, size: int, blocks: Blocks) -> tuple[Any, Any]:
    """One kernel, of packed sequences."""
    tile = tiles.Tile(**blocks)
    run, *arguments = spills.program(kernel, tile, size, "bfloat16", spills.PACKED, device)
    return run, arguments


def _traffic(kernel: str, size: int, blocks: Blocks) -> float:
    """Every block keeps its own and reads of the other side what is not masked, about half."""
    kept = blocks["c"] if kernel == "dkv" else blocks["r"]
    return 2 * 2 * spills.HEADS * spills.LENGTH * size * (1 + spills.LENGTH / kept / 2)


def _cpu(banded: bool, length: int, heads: int, size: int) -> Case:
    text = f"forward and backward, T {length}, {heads} heads, float32"
    some = product((512, 256, 1024), (1024, 512, 256))
    return Case(
        *("cpu", "some keys" if banded else "all keys", size, text),
        tuple({"rows": rows, "columns": columns} for rows, columns in some),
        HERE + "tune:on_cpu",
        (banded, length, heads, size),
    )


def on_cpu(banded: bool, length: int, heads: int, size: int, blocks: Blocks) -> tuple[Any, Any]:
    """Both passes, causal or over all keys; the cotangent of y is y."""
    spec, chosen = Spec(size**-0.5, right=0 if banded else None), CpuBlocks(**blocks)

    def both(q, k, v):
        y, lse = cpu.forward(spec, q, k, v, Extras(), chosen)
        given = y, lse, y, jnp.zeros_like(lse)
        return y, cpu.backward(spec, False, q, k, v, Extras(), *given, chosen)[:3]

    return both, (jax.ShapeDtypeStruct((1, length, heads, size), jnp.float32),) * 3
