"""Registers, spills and shared memory of the GPU's kernels, compiled for an absent H200.

Run:    python -m jaxdl.kernels.flash_attention.spills [--write FILE] [--only dkv,256,bfloat16]
Needs:  the extra `aot-gpu`, no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.kernels import absent_gpu
from jaxdl.kernels.flash_attention import gpu
from jaxdl.kernels.flash_attention.spec import Extras, Spec
from jaxdl.kernels.flash_attention.tiles import Tile

KERNELS = "forward", "dq", "dkv"
BATCH, HEADS, LENGTH = 1, 2, 2048
FEATURES: dict[str, dict[str, Any]] = {
    "causal": {"right": 0},
    "window": {"left": 256, "right": 0},
    "soft cap": {"soft_cap": 30.0},
    "dropout": {"dropout": 0.1},
    "traced offset": {"offset": None},
}
"""What each is in a `Spec`; those of arrays are in `program`."""


def compiled_stats(
    kernel: str,
    tile: Tile | None,
    size: int,
    dtype: str,
    features: Collection[str] = ("causal",),
    target: str = "h200:1",
) -> dict[str, int | None]:
    """What a kernel becomes on absent hardware: spills, registers, shared memory and products.

    Where shared memory does not suffice, all but `shared`, which is what it wants, are None.

    Args:
        kernel: one of KERNELS.
        tile: its blocks; None is what the table says.
        size: of a head.
        dtype: of q, k and v.
        features: of FEATURES, "segments", "bias", "grouped" and "ragged".
        target: as `jaxdl.core.topology.devices` takes it.

    Returns: spills, stack and registers of a thread (bytes, bytes, count), shared memory of a block
        (bytes), its threads, and how many `wgmma` and `mma.sync` are in the code.

    Raises:
        InputError: the extra `aot-gpu` is not installed.
    """
    names = {"spilled": "spills"}
    try:
        found = absent_gpu.kernels(*program(kernel, tile, size, dtype, features), target=target)
    except absent_gpu.TooLarge as error:
        fields = [names.get(name, name) for name in absent_gpu.Kernel.__annotations__]
        return dict.fromkeys(fields[1:]) | {"shared": error.wanted}
    (ours,) = [one for one in found if one.name.startswith("flash_attention")]
    return {names.get(name, name): x for name, x in asdict(ours).items() if name != "name"}


def program(
    kernel: str,
    tile: Tile | None,
    size: int,
    dtype: str,
    features: Collection[str] = ("causal",),
    device: str = "NVIDIA H200",
) -> tuple[Callable[..., Any], ...]:
    """A function that runs one kernel, and the shapes of its arguments."""
    static = {name: x for one in features for name, x in FEATURES.get(one, {}).items()}
    spec = Spec(size**-0.5, device=device, **static)
    time = LENGTH - 31 * ("ragged" in features)
    groups = 1 if "grouped" in features else HEADS
    of = jax.ShapeDtypeStruct
    q, k = (of((BATCH, time, heads, size), dtype) for heads in (HEADS, groups))
    rows = of((BATCH, HEADS, time), jnp.float32)
    ids = of((BATCH, time), jnp.int32) if "segments" in features else None
    extras = Extras(
        bias=of((1, HEADS, time, time), dtype) if "bias" in features else None,
        q_segments=ids,
        kv_segments=ids,
        seeds=of((BATCH, HEADS), jnp.uint32) if spec.dropout else None,
        offset=of((), jnp.int32) if spec.offset is None else None,
    )
    run = partial(getattr(gpu, kernel), spec, tile=tile)
    if kernel == "forward":
        return run, q, k, k, extras
    return run, q, k, k, extras, q, {"lse": rows, "inner": rows}
