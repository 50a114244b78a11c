"""The last link of every chain: minus the learning rate, kept in the state for hooks to turn."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Rate(NamedTuple):
    """State of `scale_by_rate`."""

    words: Array
    """int32 [3], the bits of the three below: every array of a state costs every update a
    microsecond."""

    @classmethod
    def of(cls, count: Array, factor: Array, value: Array) -> Rate:
        """The state of these."""
        floats = jnp.stack([factor, value]).astype(jnp.float32)
        bits = jax.lax.bitcast_convert_type(floats, jnp.int32)
        return cls(jnp.concatenate([jnp.reshape(count, 1), bits]))

    @property
    def count(self) -> Array:
        """Updates made, int32."""
        return self.words[0]

    @property
    def factor(self) -> Array:
        """What `ReduceOnPlateau` turns; 1 at first."""
        return jax.lax.bitcast_convert_type(self.words[1], jnp.float32)

    @property
    def value(self) -> Array:
        """The rate of the latest update."""
        return jax.lax.bitcast_convert_type(self.words[2], jnp.float32)


def scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Scales updates by `-schedule(count) * factor`."""

    def init(params):
        del params
        return Rate.of(jnp.int32(0), jnp.float32(1), jnp.float32(0))

    def update(updates, state, params=None):
        del params
        rate = jnp.asarray(schedule(state.count), jnp.float32) * state.factor
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return updates, Rate.of(state.count + 1, state.factor, rate)

    return optax.GradientTransformation(init, update)


def rates(opt: Any) -> list[Rate]:
    """The Rate states inside an optimizer state."""
    leaves = jax.tree.leaves(opt, is_leaf=lambda x: isinstance(x, Rate))
    return [leaf for leaf in leaves if isinstance(leaf, Rate)]


def reduce_rates(opt: Any, factor: float) -> Any:
    """`opt` with every Rate's factor multiplied by `factor`."""

    def turn(x):
        return Rate.of(x.count, x.factor * factor, x.value) if isinstance(x, Rate) else x

    return jax.tree.map(turn, opt, is_leaf=lambda x: isinstance(x, Rate))
