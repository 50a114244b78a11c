"""Merging metric states across batches, on the host in 64 bits, and along a dimension."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import jax
import numpy as np
from clu import metrics as clu_metrics

from jaxdl.core.task import Metric

AHEAD = 32
"""States on the device at a time; the outer products of `Frechet` are large."""


def merge(states: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """One state per name out of many; waits for the device every `AHEAD` states."""
    merged: dict[str, Metric] = {}
    states = iter(states)
    while some := list(islice(states, AHEAD)):
        for batch in jax.device_get(some):
            for name, state in jax.tree.map(widen, batch).items():
                merged[name] = merged[name].merge(state) if name in merged else state
    return merged


def reduce(state: Metric) -> Metric:
    """One state out of those along its leaves' leading dimension, in their order."""
    if type(state).reduce is not clu_metrics.Metric.reduce:
        return state.reduce()
    count = len(jax.tree.leaves(state)[0])
    parts = (jax.tree.map(operator.itemgetter(i), state) for i in range(count))
    return functools.reduce(lambda left, right: left.merge(right), parts)


def compute(merged: Mapping[str, Metric]) -> dict[str, float]:
    """Values by name; what counted nothing (a skipped player, say) is left out.

    The count of a state is its `weight`, or `count` as in `clu.metrics`; one with neither is told.
    """
    return {name: float(m.compute()) for name, m in merged.items() if np.count_nonzero(_counted(m))}


def _counted(metric: Metric) -> Any:
    return getattr(metric, "weight", getattr(metric, "count", True))


def widen(x: Any) -> np.ndarray:
    """A host array in 64 bits."""
    x = np.asarray(x)
    return x.astype(np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64)
