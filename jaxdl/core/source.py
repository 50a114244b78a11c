"""The seams of the data: a source of examples, and the experiment's `data` field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

Examples = Mapping[str, np.ndarray]
"""Stacked examples on the host: every leaf [n, ...]."""
Plan = Callable[[int, np.ndarray], np.ndarray]
"""`plan(seed, e) -> source indices` of the run's examples `e` [n] int64; pure."""
Transform = Callable[[dict, Any], dict]
"""`transform(examples, rng) -> examples`; `rng` draws per example, keyed by (seed, e)."""


class Source(Protocol):
    """Examples by index: random access, no state.

    `sizes` (optional) gives the number of distinct values of integer leaves: classes, vocabulary.
    """

    spec: Mapping[str, Any]
    """One example's leaves as `jax.ShapeDtypeStruct`."""
    fingerprint: str
    """Changes when the content does."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, i: int) -> Mapping[str, np.ndarray]:
        """Example `i`."""
        ...


class Data(Protocol):
    """The experiment's data: a frozen dataclass."""

    batch: int
    """Global training batch."""
    eval_batch: int
    """Global evaluation batch; 0 means `batch`."""

    def train(self) -> Source | None:
        """Examples to learn from."""
        ...

    def valid(self) -> Source | None:
        """Examples to choose by."""
        ...

    def test(self) -> Source | None:
        """Examples to report on."""
        ...

    def plan(self, split: str) -> Plan | None:
        """The order of examples; None shuffles each epoch."""
        ...

    def transform(self, split: str) -> Transform | None:
        """Host-side augmentation of a split; None leaves examples as they are."""
        ...
