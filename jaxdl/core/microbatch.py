"""Micro-batches: which rows and which key each has, and how what they give adds up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core import rng
from jaxdl.core.task import Batch, Grads, Key, Metric, Sums


def micro_batch(batch: Batch, key: Key, i: int | Array, parts: int) -> tuple[Batch, Key]:
    """Micro-batch i of `parts`, and its key; the whole batch with its own key where it is alone.

    It has rows i, i + parts, ... so that a row stays on its device.
    """
    if parts == 1:
        return batch, key
    return jax.tree.map(lambda x: _rows(x, i, parts), batch), rng.fold(key, i)


def add(
    left: tuple[Grads, Sums, Mapping[str, Metric]], right: tuple[Grads, Sums, Mapping[str, Metric]]
) -> tuple[Grads, Sums, dict[str, Metric]]:
    """Gradients and sums added, metric states merged (a state of zeros changes nothing)."""
    grads = jax.tree.map(jnp.add, left[0], right[0])
    metrics = {name: left[2][name].merge(state) for name, state in right[2].items()}
    return grads, left[1] + right[1], metrics


def _rows(x: Any, i: int | Array, parts: int) -> Array:
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:])[:, i]
