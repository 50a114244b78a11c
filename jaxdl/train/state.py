"""The train state: everything that resuming needs, as one frozen pytree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from jaxdl.core import rng, tree
from jaxdl.core.task import ModelState, Params, Player
from jaxdl.train.scale import LossScale


class State(NamedTuple):
    """Plain (unboxed) arrays; checkpoints hold exactly this.

    A tuple, since jax takes a state apart and puts it together in every call of the step.
    """

    step: Array
    """int32, updates attempted."""
    cursor: Array
    """int32, the next batch's index; equals `step` unless data was skipped or rolled back."""
    params: Params
    """Master parameters, float32."""
    model: ModelState
    """Persistent collections such as `batch_stats`."""
    opt: Mapping[str, optax.OptState]
    """Optimizer states by player."""
    key: Array
    """Words (uint32) of the run's root key, never advanced; `rng.wrap` them, fold in step, then
    purpose, then micro-batch."""
    skipped: Array
    """int32, updates left out because a loss or gradient was not finite."""
    scale: LossScale | None = None
    """Where the precision asks for it (float16)."""
    ema: Params | None = None
    """Averaged parameters, where the experiment asks for them."""

    def replace(self, **changes: Any) -> State:
        """The state with these fields changed."""
        return self._replace(**changes)


def create(
    params: Params,
    model_state: ModelState,
    players: tuple[Player, ...],
    txs: Mapping[str, optax.GradientTransformation],
    *,
    seed: int,
    ema: bool,
    scaled: bool = False,
) -> State:
    """The state before the first update."""
    return State(
        step=jnp.int32(0),
        cursor=jnp.int32(0),
        params=params,
        model=model_state,
        opt={p.name: txs[p.name].init(tree.select(params, p.params)) for p in players},
        key=rng.words(rng.root(seed)),
        ema=params if ema else None,
        scale=LossScale.initial() if scaled else None,
        skipped=jnp.int32(0),
    )
