"""Merging metric states across batches, on the host, in 64 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import jax
import numpy as np

from jaxdl.core.task import Metric

AHEAD = 32
"""States on the device at a time; the outer products of `Frechet` are large."""


def merge(states: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """One state per name out of many; waits for the device every `AHEAD` states."""
    merged: dict[str, Metric] = {}
    states = iter(states)
    while some := list(islice(states, AHEAD)):
        for batch in jax.device_get(some):
            for name, state in jax.tree.map(_widen, batch).items():
                merged[name] = merged[name].merge(state) if name in merged else state
    return merged


def compute(merged: Mapping[str, Metric]) -> dict[str, float]:
    """Values by name; what counted nothing (a skipped player, say) is left out.

    The count of a state is its `weight`, or `count` as in `clu.metrics`; one with neither is told.
    """
    return {name: float(m.compute()) for name, m in merged.items() if np.any(_counted(m))}


def _counted(metric: Metric) -> Any:
    return getattr(metric, "weight", getattr(metric, "count", True))


def _widen(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64)
