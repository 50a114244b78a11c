"""Metric states of one update as few arrays: each output of a compiled step costs a microsecond."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.core import tree
from jaxdl.core.task import Metric
from jaxdl.metrics import widen

TOGETHER = 16
"""Updates that are put together at once: arrays that nobody holds any more are used again."""


@dataclass(frozen=True)
class Layout:
    """Where the leaves of the metrics lie."""

    tree: Any
    places: tuple[tuple[int, int | None], ...]
    """By leaf: its array, and its index there; None: it is the array."""

    def names(self) -> list[str]:
        """Paths of the leaves, e.g. `loss/total`."""
        return list(tree.flatten(jax.tree.unflatten(self.tree, range(len(self.places)))))


@jax.tree_util.register_pytree_node_class
class Packed(Mapping[str, Metric]):
    """Metric states by name, whose scalars lie together in one array per dtype.

    Outside of jit, reading a state waits for the device once and gives numpy scalars.
    """

    def __init__(self, arrays: Sequence[Any], layout: Layout):
        """See `pack`."""
        self.arrays, self.layout = arrays, layout

    def __getitem__(self, name: str) -> Metric:
        """One state."""
        return self._states[name]

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._states)

    def __len__(self) -> int:
        """The number of states."""
        return len(self._states)

    def tree_flatten(self):
        """For jax."""
        return tuple(self.arrays), self.layout

    @classmethod
    def tree_unflatten(cls, layout, arrays):
        """For jax."""
        return cls(arrays, layout)

    @cached_property
    def _states(self) -> dict[str, Metric]:
        arrays = [np.asarray(x) if isinstance(x, jax.Array) else x for x in self.arrays]
        return unpack(arrays, self.layout, lambda x, i: _scalar(x, i))


def pack(metrics: Mapping[str, Metric]) -> Packed:
    """`metrics`, packed."""
    leaves, structure = jax.tree.flatten(dict(metrics))
    dtypes = list(dict.fromkeys(x.dtype for x in leaves if x.ndim == 0))
    scalars: list[list] = [[] for _ in dtypes]
    whole, places = [], []
    for leaf in leaves:
        if leaf.ndim:
            places.append((len(dtypes) + len(whole), None))
            whole.append(leaf)
        else:
            array = dtypes.index(leaf.dtype)
            places.append((array, len(scalars[array])))
            scalars[array].append(leaf)
    return Packed([*map(jnp.stack, scalars), *whole], Layout(structure, tuple(places)))


class Rows:
    """Metrics of consecutive updates, left on the device until somebody asks for them."""

    def __init__(self, layout: Layout | None = None, arrays: Sequence[np.ndarray] = ()):
        """Begins with what `arrays` gave earlier, if anything."""
        self.layout, self._arrays = layout, list(arrays)
        self._fresh: list[Packed] = []
        self._stacked: list[tuple[int, list[jax.Array]]] = []

    def add(self, metrics: Packed) -> None:
        """Those of one more update."""
        self.layout = metrics.layout
        self._fresh.append(metrics)
        if len(self._fresh) == TOGETHER:
            self._stack()

    def arrays(self) -> list[np.ndarray]:
        """The packed arrays on the host in 64 bits, each with a leading dimension of updates;
        none before the first. Waits for the device."""
        if self._fresh:
            self._stack()
        parts = [[np.asarray(x)[:count] for x in found] for count, found in self._stacked]
        if parts:
            parts = [self._arrays, *parts] if self._arrays else parts
            self._arrays = [widen(np.concatenate(column)) for column in zip(*parts, strict=True)]
            self._stacked = []
        return self._arrays

    def states(self) -> dict[str, Metric]:
        """States by name whose leaves have that leading dimension."""
        arrays = self.arrays()
        return unpack(arrays, self.layout, lambda x, i: x[:, i]) if arrays else {}

    def _stack(self) -> None:
        """On the device, since one transfer costs less than many; few lengths, so few
        compilations."""
        count = len(self._fresh)
        missing = (1 << (count - 1).bit_length()) - count
        filled = [x.arrays for x in self._fresh + self._fresh[-1:] * missing]
        self._stacked.append((count, _stacked(filled)))
        self._fresh = []


@jax.jit
def _stacked(updates: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    return [jnp.stack(column) for column in zip(*updates, strict=True)]


def unpack(arrays: Sequence[Any], layout: Layout, take: Any) -> dict[str, Metric]:
    """The states, their scalars being `take(array, index)`."""
    leaves = [arrays[a] if i is None else take(arrays[a], i) for a, i in layout.places]
    return jax.tree.unflatten(layout.tree, leaves)


def _scalar(array: Any, index: int) -> Any:
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((), array.dtype)
    return array[index]
