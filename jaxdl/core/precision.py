"""Precision policies by name: float32 master parameters, and the dtype of forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.errors import InputError, suggest


@dataclass(frozen=True)
class Policy:
    """The dtype of the mathematics; parameters, optimizer state and averages stay float32.

    Models name no dtype: they compute in that of the parameters they are given. What needs float32
    (softmax, normalisation statistics, losses) asks for it where it is written.
    """

    compute: Any
    scaled: bool = False
    """Whether losses are scaled, dynamically, so that small gradients do not become 0."""

    def cast(self, params: Any) -> Any:
        """`params` with floating leaves in the compute dtype."""
        return cast(params, self.compute)


POLICIES = {
    "f32": Policy(jnp.float32),
    "bf16": Policy(jnp.bfloat16),
    "f16": Policy(jnp.float16, scaled=True),
}


def policy(name: str) -> Policy:
    """The policy of that name.

    Raises:
        InputError: no such policy; names the nearest.
    """
    if name not in POLICIES:
        raise InputError(f"precision={name!r} is unknown; {suggest(name, POLICIES)}.")
    return POLICIES[name]


def cast(tree: Any, dtype: Any) -> Any:
    """`tree` with its floating leaves in `dtype`; integers, keys and masks of bools stay."""

    def leaf(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, tree)


def like(params: Any, tree: Any) -> Any:
    """`tree` with its floating leaves in the floating dtype of `params`."""
    dtypes = {x.dtype for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.floating)}
    return cast(tree, dtypes.pop()) if len(dtypes) == 1 else tree
