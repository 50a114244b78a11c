"""Sources of examples that lie in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property

import jax
import numpy as np

from jaxdl.core.errors import InputError, suggest


class ArraySource:
    """Example i is row i of each array; the arrays are kept, not copied, and must not change.

    `sizes` gives the number of distinct values of integer leaves, e.g. `{"label": 10}`.

    Shapes: arrays {name: [n, ...]}.
    Raises: InputError for no arrays, unequal lengths, leaves that are not numeric, values outside
    `sizes`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int] | None = None):
        """Checks the arrays, which costs one pass over the leaves named in `sizes`."""
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self.sizes = dict(sizes or {})
        self._check()
        self.spec = {
            name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
            for name, array in self.arrays.items()
        }

    def __len__(self) -> int:
        """The number of examples."""
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Example `i`, each leaf without the leading dimension."""
        return {name: array[i] for name, array in self.arrays.items()}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples `indices` [m], stacked: every leaf [m, ...]."""
        return {name: array[indices] for name, array in self.arrays.items()}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over names, dtypes, shapes and bytes."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return digest.hexdigest()

    def _check(self) -> None:
        if not self.arrays:
            raise InputError("a source needs at least one array.")
        for name, array in self.arrays.items():
            if array.dtype.kind in "OSUMm" or array.ndim == 0:
                raise InputError(
                    f"{name!r} is {array.dtype} of shape {array.shape}; "
                    "it must be numeric, with one row per example."
                )
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"arrays differ in length: {lengths}.")
        for name, size in self.sizes.items():
            if name not in self.arrays:
                raise InputError(f"sizes: no array {name!r}; {suggest(name, self.arrays)}.")
            check_range(name, self.arrays[name], size)


def check_range(name: str, values: np.ndarray, size: int) -> None:
    """Raises InputError unless all integers of the leaf `name` lie in [0, size)."""
    if values.size and not 0 <= values.min() <= values.max() < size:
        raise InputError(
            f"{name!r} has values {values.min()} to {values.max()}, outside [0, {size})."
        )
