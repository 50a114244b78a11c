"""The train state: everything that resuming needs, as one frozen pytree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxdl.core import rng, tree
from jaxdl.core.task import Key, ModelState, Params, Player
from jaxdl.train.scale import LossScale

COUNTS = 3
"""Counters before the key's words."""


class State(NamedTuple):
    """Plain (unboxed) arrays; checkpoints hold exactly this.

    A tuple, since jax takes a state apart and puts it together in every call of the step.
    """

    counters: Array
    """int32: `step`, `cursor`, `skipped` and the words of `key`, since every array costs every
    update a microsecond."""
    params: Params
    """Master parameters, float32."""
    model: ModelState
    """Persistent collections such as `batch_stats`."""
    opt: Mapping[str, optax.OptState]
    """Optimizer states by player."""
    scale: LossScale | None = None
    """Where the precision asks for it (float16)."""
    ema: Params | None = None
    """Averaged parameters, where the experiment asks for them."""

    @property
    def step(self) -> Any:
        """int32, updates attempted."""
        return _known(self.counters)[0]

    @property
    def cursor(self) -> Any:
        """int32, the next batch's index; equals `step` unless data was skipped or rolled back."""
        return _known(self.counters)[1]

    @property
    def skipped(self) -> Any:
        """int32, updates left out because a loss or gradient was not finite."""
        return _known(self.counters)[2]

    @property
    def key(self) -> Key:
        """The run's root key, never advanced; fold in step, then purpose, then micro-batch."""
        return rng.wrap(self.counters[COUNTS:])

    def replace(self, **changes: Any) -> State:
        """The state with these fields changed."""
        return self._replace(**changes)

    def counted(self, finite: Array) -> Array:
        """The counters after one more update, which was left out unless `finite`."""
        words = len(self.counters) - COUNTS
        lost = 1 - finite.astype(jnp.int32)
        return self.counters + jnp.stack([1, 1, lost, *words * (0,)])


def _known(counters: Any) -> Any:
    """On the host, where their values are known: no program has to pick one out."""
    return counters if isinstance(counters, jax.core.Tracer) else np.asarray(counters)


def create(
    params: Params,
    model_state: ModelState,
    players: tuple[Player, ...],
    txs: Mapping[str, optax.GradientTransformation],
    *,
    seed: int | Array,
    ema: bool,
    scaled: bool = False,
) -> State:
    """The state before the first update."""
    return State(
        counters=jnp.concatenate([jnp.zeros(COUNTS, jnp.int32), rng.words(rng.root(seed))]),
        params=params,
        model=model_state,
        opt={p.name: txs[p.name].init(tree.select(params, p.params)) for p in players},
        ema=params if ema else None,
        scale=LossScale.initial() if scaled else None,
    )
