"""The last link of every chain: minus the learning rate, kept in the state for hooks to turn."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Rate(NamedTuple):
    """State of `scale_by_rate`."""

    count: Array
    """Updates made, int32."""
    floats: Array
    """`factor` and `value` together: each array of a state costs every step a microsecond."""

    @property
    def factor(self) -> Array:
        """What `ReduceOnPlateau` turns; 1 at first."""
        return self.floats[0]

    @property
    def value(self) -> Array:
        """The rate of the latest update."""
        return self.floats[1]


def scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Scales updates by `-schedule(count) * factor`."""

    def init(params):
        del params
        return Rate(count=jnp.int32(0), floats=jnp.array([1, 0], jnp.float32))

    def update(updates, state, params=None):
        del params
        rate = jnp.asarray(schedule(state.count), jnp.float32) * state.factor
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return updates, Rate(count=state.count + 1, floats=jnp.stack([state.factor, rate]))

    return optax.GradientTransformation(init, update)


def rates(opt: Any) -> list[Rate]:
    """The Rate states inside an optimizer state."""
    leaves = jax.tree.leaves(opt, is_leaf=lambda x: isinstance(x, Rate))
    return [leaf for leaf in leaves if isinstance(leaf, Rate)]


def reduce_rates(opt: Any, factor: float) -> Any:
    """`opt` with every Rate's factor multiplied by `factor`."""

    def turn(x):
        return x._replace(floats=x.floats.at[0].multiply(factor)) if isinstance(x, Rate) else x

    return jax.tree.map(turn, opt, is_leaf=lambda x: isinstance(x, Rate))
