"""The GPU's kernels as compiled for an absent H200: registers, spills, shared memory, products.

A record for each kernel, size, dtype and set of features. Layer norm is of 4096 rows.

Run:    python -m jaxdl.kernels.spills [--write FILE] [--only "attention dkv, 256, bfloat16"]
Needs:  the extra `aot-gpu`, no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.kernels import absent_gpu, records
from jaxdl.kernels.flash_attention import spills as attention
from jaxdl.kernels.layer_norm import gpu as norm
from jaxdl.kernels.layer_norm.reference import Norm

TARGET = "h200:1"
ROWS = 4096
WIDTHS = 768, 4096, 8192, norm.WIDEST
NORMS = "layer norm", "RMS norm", "layer norm with residual"


def found(only: str = "") -> Iterator[dict[str, Any]]:
    """All records, or those whose case begins so."""
    wanted = partial(_wanted, only)
    for kernel, size, dtype, features in attention.cases():
        if wanted("attention", kernel, size, dtype):
            stats = attention.compiled_stats(kernel, None, size, dtype, features, TARGET)
            told = " + ".join(features) or "no feature"
            yield _record("attention", kernel, size, dtype, told, stats)
    for dtype in ("bfloat16", "float32"):
        for size in WIDTHS:
            for name in NORMS:
                for direction, widest in (("forward", norm.WIDEST), ("backward", norm.WIDEST_BACK)):
                    if size <= widest and wanted("norm", direction, size, dtype):
                        stats = norm_stats(name, direction, size, dtype)
                        yield _record("norm", direction, size, dtype, name, stats)


def norm_stats(name: str, direction: str, size: int, dtype: str) -> dict[str, int]:
    """As those of attention, of rows of `size` features."""
    kind = Norm(1e-5, name != "RMS norm", jnp.dtype(dtype))
    x = jax.ShapeDtypeStruct((ROWS, size), dtype)
    weight = jax.ShapeDtypeStruct((size,), jnp.float32)
    bias, residual = weight if kind.center else None, x if "residual" in name else None
    given = (x, residual, weight, bias) if direction == "forward" else (x, x, residual, weight)
    compiled = absent_gpu.compiled(partial(getattr(norm, direction), norm=kind), *given)
    (ours,) = [one for one in compiled.kernels if one.name.startswith("norm")]
    more = {"spills": ours.spilled, "temp": compiled.temp}
    return {n: getattr(ours, n) for n in attention.STATS if n not in more} | more


def _wanted(only: str, op: str, direction: str, size: int, dtype: str) -> bool:
    return f"{op} {direction}, {size}, {dtype}".startswith(only)


def _record(
    op: str, direction: str, size: int, dtype: str, features: str, stats: Mapping[str, Any]
) -> dict[str, Any]:
    return records.of(
        *(op, f"{features}, {size}, {dtype}", TARGET, direction),
        **{"absent": "NVIDIA H200", "versions": absent_gpu.versions()},
        **{"size": size, "dtype": dtype, "features": features, **stats},
    )


if __name__ == "__main__":
    records.command(__doc__, found, "OP DIRECTION, SIZE, DTYPE")
