"""Dynamic loss scaling for float16 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2)."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core import tree
from jaxdl.core.task import Grads, Player, Sums

INITIAL = 2.0**15
PERIOD = 2000
"""Updates in a row without overflow after which the scale doubles."""
LEAST = 2.0**-24
MOST = 2.0**24


@tree.dataclass
class LossScale:
    """What losses are multiplied by before their gradient is taken."""

    value: Array
    """float32, a power of two: multiplying and dividing by it rounds nothing."""
    fine: Array
    """int32, updates in a row without overflow."""

    @classmethod
    def initial(cls) -> LossScale:
        """2**15, as nothing is known of the gradients yet."""
        return cls(value=jnp.float32(INITIAL), fine=jnp.int32(0))

    def after(self, finite: Array) -> LossScale:
        """Half of it after an update that was not finite, twice after `PERIOD` that were."""
        fine = jnp.where(finite, self.fine + 1, 0)
        grown = jnp.where(fine == PERIOD, self.value * 2, self.value)
        value = jnp.where(finite, grown, self.value / 2)
        return LossScale(value=jnp.clip(value, LEAST, MOST), fine=fine % PERIOD)

    def unscaled(self, grads: Grads, sums: Sums) -> tuple[Grads, Sums]:
        """What `wrap` multiplied, divided again."""
        grads = jax.tree.map(lambda g: g / self.value, grads)
        return grads, Sums(total=sums.total / self.value, weight=sums.weight)

    def wrap(self, player: Player) -> Player:
        """`player`, its loss multiplied."""

        def loss(*args):
            sums, aux = player.loss(*args)
            return Sums(total=sums.total * self.value, weight=sums.weight), aux

        return replace(player, loss=loss)
