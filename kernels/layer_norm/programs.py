"""The programs that are compared and tuned: shapes, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.kernels.layer_norm import gpu, reference, tpu
from jaxdl.kernels.layer_norm.blocks import GpuBlocks, TpuBlocks

SHAPES = ((8192, 768), (4096, 2048), (8192, 4096), (2048, 8192))
"""Rows and features, in bfloat16."""
NORMS = "layer", "rms"
PASSES = "forward", "with residual", "backward"
Program = tuple[Callable[..., Any], tuple[Any, ...]]


def program(
    impl: str, options: Mapping[str, Any], norm: str, name: str, rows: int, features: int
) -> Program:
    """A function, and the shapes and dtypes of its arguments.

    Args:
        impl: `reference`, `tpu` or `gpu`, and what it takes as `options`.
        norm, name: of NORMS and PASSES.
        rows, features: of x.
    """
    module = {"reference": reference, "tpu": tpu, "gpu": gpu}[impl]
    kind = reference.Norm(1e-5, norm == "layer", jnp.dtype(jnp.bfloat16))
    x = jax.ShapeDtypeStruct((rows, features), jnp.bfloat16)
    weight = jax.ShapeDtypeStruct((features,), jnp.float32)
    bias = weight if kind.center else None
    if name == "backward":
        return partial(module.backward, norm=kind, **options), (x, x, None, weight)
    forward = partial(module.forward, norm=kind, **options)
    if name == "with residual":
        return forward, (x, x, weight, bias)
    # h is x: only y is a result.
    return lambda *given: forward(*given)[0], (x, None, weight, bias)


def in_blocks(impl: str, *given: Any) -> Program:
    """The same by blocks, which come last as the table has them; of none it is the reference."""
    *case, blocks = given
    if not blocks:
        return program("reference", {}, *case)
    kind = {"tpu": TpuBlocks, "gpu": GpuBlocks}[impl]
    return program(impl, {"blocks": kind(**blocks)}, *case)
