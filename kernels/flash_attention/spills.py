"""Registers, spills and shared memory of the GPU's kernels, compiled for GPUs that are absent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.topology import devices
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
PACKED = "causal", "window", "segments", "dropout"
EVERYTHING = *PACKED, "soft cap", "bias", "grouped", "ragged", "traced offset"
SINGLE = ("causal",), ("window",), ("soft cap",), ("dropout",), ("segments",), ("bias",)
FEW = ("causal",), PACKED, EVERYTHING
ALL = (), *SINGLE, ("grouped",), ("ragged",), ("causal", "traced offset"), PACKED, EVERYTHING
CASES: dict[tuple[int, str], tuple[tuple[str, ...], ...]] = {
    **{(size, "bfloat16"): ALL for size in (64, 128, 256)},
    # The same blocks, since sizes are padded to powers of two; and numbers as large.
    **{(size, "bfloat16"): FEW for size in (80, 96)},
    **{(size, "float16"): FEW for size in (64, 128, 256)},
    **{(size, "float32"): (*SINGLE, PACKED, EVERYTHING) for size in (64, 128)},
}
"""Sets of features, by size of a head and dtype."""
STATS = "spills", "stack", "registers", "shared", "threads", "wgmma", "mma_sync", "temp"


def cases() -> Iterator[tuple[str, int, str, tuple[str, ...]]]:
    """Kernel, size of a head, dtype and features of all that is compiled as evidence."""
    for (size, dtype), several in CASES.items():
        yield from ((name, size, dtype, some) for some in several for name in KERNELS)


def compiled_stats(
    kernel: str,
    tile: Tile | None,
    size: int,
    dtype: str,
    features: Collection[str] = ("causal",),
    target: str = "h200:1",
) -> dict[str, int | None]:
    """What a kernel becomes on absent hardware: STATS.

    Where shared memory does not suffice, all but `shared`, which is what it wants, are None. Wide
    heads have a kernel for keys and one for values: the most of both, but the sum of their spills
    and products.

    Args:
        kernel: one of KERNELS.
        tile: its blocks; None is what the table says.
        size: of a head.
        dtype: of q, k and v.
        features: of FEATURES, "segments", "bias", "grouped" and "ragged".
        target: as `jaxdl.core.topology.devices` takes it.

    Returns: spills (bytes stored and loaded), stack (bytes) and registers of a thread, shared
        memory of a block (bytes), its threads, how many `wgmma` and `mma.sync` are in the code, and
        temporary memory (bytes).

    Raises:
        InputError: the extra `aot-gpu` is not installed.
    """
    device = devices(target)[0].device_kind
    try:
        given = program(kernel, tile, size, dtype, features, device)
        found = absent_gpu.compiled(*given, target=target)
    except absent_gpu.TooLarge as error:
        return dict.fromkeys(STATS) | {"shared": error.wanted}
    ours = [one for one in found.kernels if one.name.startswith("flash_attention")]
    return {
        "spills": sum(one.spilled for one in ours),
        **{n: max(getattr(one, n) for one in ours) for n in STATS[1:5]},
        **{n: sum(getattr(one, n) for one in ours) for n in STATS[5:7]},
        "temp": found.temp,
    }


def program(
    kernel: str,
    tile: Tile | None,
    size: int,
    dtype: str,
    features: Collection[str],
    device: str,
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
        bias=of((1, HEADS, time, time), jnp.float32) if "bias" in features else None,
        q_segments=ids,
        kv_segments=ids,
        seeds=of((BATCH, HEADS), jnp.uint32) if spec.dropout else None,
        offset=of((), jnp.int32) if spec.offset is None else None,
    )
    run = partial(getattr(gpu, kernel), spec, tile=tile)
    if kernel == "forward":
        return run, q, k, k, extras
    return run, q, k, k, extras, q, {"lse": rows, "inner": rows}
