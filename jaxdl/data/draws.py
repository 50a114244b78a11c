"""Random numbers for transforms on the host, one independent stream per example."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jaxdl.core.errors import InputError
from jaxdl.data.hashing import hashed


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers keyed by (seed, example number, purpose).

    An example gets the same numbers however the batch is split over processes and workers. The same
    purpose gives the same numbers again; use another purpose, or `fold`, for fresh ones.

    Shapes: examples [n] int64, the run's example numbers e.
    """

    seed: int
    examples: np.ndarray

    def fold(self, word: int | str) -> Draws:
        """An independent family of draws for the same examples."""
        return Draws(int(hashed(self.seed, "fold", word)), self.examples)

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Uniform numbers in [0, 1), float64 [n, *shape]."""
        return (self._bits(purpose, shape) >> 11) * 2.0**-53

    def integers(
        self, purpose: str, low: int, high: int, shape: tuple[int, ...] = ()
    ) -> np.ndarray:
        """Uniform integers in [low, high), int64 [n, *shape].

        Raises: InputError when the range is empty.
        """
        if high <= low:
            raise InputError(f"integers in [{low}, {high}): the range is empty.")
        # The remainder's bias is (high - low) / 2**64: out of reach of any experiment.
        return (self._bits(purpose, shape) % (high - low)).astype(np.int64) + low

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Standard normal numbers, float64 [n, *shape] (Box and Muller 1958)."""
        radius, angle = np.moveaxis(self.uniform(purpose, (2, *shape)), 1, 0)
        return np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)

    def _bits(self, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
        """64 random bits, uint64 [n, *shape]."""
        per_example = (-1,) + (1,) * len(shape)
        counter = np.arange(math.prod(shape)).reshape(shape)
        return hashed(self.seed, purpose, np.reshape(self.examples, per_example), counter)
