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

STACKED = 256
"""Most updates that are put together at once: compilation takes longer than in proportion."""


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


def stack(states: Sequence[Packed]) -> list[np.ndarray]:
    """The arrays of many updates on the host in 64 bits, each with a leading dimension of them."""
    updates = [packed.arrays for packed in states]
    some = [updates[i : i + STACKED] for i in range(0, len(updates), STACKED)]
    stacked = [_stacked(_filled(part)) for part in some]
    rows = ([np.asarray(x)[: len(p)] for x in s] for p, s in zip(some, stacked, strict=True))
    return [widen(np.concatenate(column)) for column in zip(*rows, strict=True)]


def _filled(updates: list) -> list:
    """With the last repeated up to a power of two: few lengths, so few compilations."""
    return updates + updates[-1:] * ((1 << (len(updates) - 1).bit_length()) - len(updates))


@jax.jit
def _stacked(updates: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    """On the device, since one transfer costs less than many."""
    return [jnp.stack(column) for column in zip(*updates, strict=True)]


def unstack(arrays: Sequence[np.ndarray], layout: Layout) -> dict[str, Metric]:
    """Metric states whose leaves have the leading dimension of `stack`."""
    return unpack(arrays, layout, lambda x, i: x[:, i])


def unpack(arrays: Sequence[Any], layout: Layout, take: Any) -> dict[str, Metric]:
    """The states, their scalars being `take(array, index)`."""
    leaves = [arrays[a] if i is None else take(arrays[a], i) for a, i in layout.places]
    return jax.tree.unflatten(layout.tree, leaves)


def _scalar(array: Any, index: int) -> Any:
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((), array.dtype)
    return array[index]
