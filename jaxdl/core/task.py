"""The seams between a task, the step and the loop: what is learned, by whom, from which batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jax import Array

from jaxdl.core import tree

Params = Any
Grads = Any
ModelState = Mapping[str, Any]
"""Persistent collections only (`batch_stats` ...): no `losses`, `intermediates` or `cache`."""
Batch = Mapping[str, Array]
"""Leading dimension: the global batch. Keys: `image`, `label`, `tokens` ...; `mask` [B] f32 pads
rows (always there in evaluation), `token_mask` [B, T] pads tokens."""
Key = Array
"""A typed PRNG key (`jax.random.key`)."""
Metric = Any
"""A mergeable state of `clu.metrics`."""
Aux = tuple[ModelState, Mapping[str, Metric]]


@tree.dataclass
class Sums:
    """A loss before its division: `total / weight`, in the loss's own unit.

    Micro-batches, shards and hosts ADD first and divide last. `weight` counts examples or unmasked
    tokens. A loss with several denominators divides each term itself and returns
    `total = value * B, weight = B`; its docstring says so.
    """

    total: Array
    weight: Array

    def __add__(self, other: Sums) -> Sums:
        """The sums of both halves together."""
        return Sums(total=self.total + other.total, weight=self.weight + other.weight)


@dataclass(frozen=True)
class Player:
    """One optimizer's view: which parameters move, under which loss, how often."""

    name: str
    """`main` when alone; otherwise the prefix of its metrics."""
    loss: Callable[[Params, ModelState, Batch, Key], tuple[Sums, Aux]]
    """Gets the whole parameter tree."""
    params: str = "*"
    """fnmatch pattern over '/'-joined paths. The players' patterns are disjoint; a leaf that none
    matches is frozen: no gradient, no optimizer state."""
    optim: str = "optim"
    """Dotted path in the Experiment, e.g. `optim.critic`; built with this player's subtree and its
    own number of updates, ceil(steps / every)."""
    every: int = 1
    """Updates once in so many steps; the metrics of a skipped update are omitted."""


class Task(Protocol):
    """What is learned. Every method is pure and jittable: no mesh, no I/O.

    A task may also have `check(model, outputs, sizes)`, called before any device work with the
    abstract result of `predict` and the source's `sizes`; it raises `InputError` where they cannot
    fit.
    """

    primary: str
    """The figure of merit, e.g. `valid/accuracy`, of best checkpoint, ablations and early stop."""
    mode: str
    """`max` or `min`."""

    def init(self, model: Any, key: Key, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters, boxed with their axis names, and the persistent model state."""
        ...

    def players(self, model: Any) -> tuple[Player, ...]:
        """The players in the order of their updates; their losses run in training mode."""
        ...

    def evaluate(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> Mapping[str, Metric]:
        """Metric states of one batch: dropout off, mask honoured."""
        ...

    def predict(self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key) -> Any:
        """What evaluation pictures, export and serving call."""
        ...


GradFn = Callable[[Player, Params, ModelState, Batch, Key], tuple[Grads, Sums, Aux]]
"""Undivided sums. Accumulation, SAM, pipeline schedules and virtual shards are GradFns, or
`GradFn -> GradFn`; dividing, unscaling, clipping and the update come once, after."""
