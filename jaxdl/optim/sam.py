"""Sharpness-aware minimisation (Foret et al. 2020, arXiv:2010.01412)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxdl.core import tree
from jaxdl.core.errors import InputError
from jaxdl.core.task import GradFn, Grads, Params


@dataclass(frozen=True)
class SAM:
    """Take the gradient at theta + rho g / |g|, |g| the norm over all the player's parameters."""

    rho: float = 0.05

    def __post_init__(self):
        """Refuses a radius that does nothing."""
        if not self.rho > 0:
            raise InputError(
                f"rho={self.rho} must be positive; set optim.sam to none to switch SAM off."
            )

    def wrap(self, grad: GradFn) -> GradFn:
        """`grad` at the ascended parameters; loss, metrics and model state are of the first pass.

        It wraps accumulation, so that ascent and descent each see every micro-batch.
        """

        def sharpness_aware(player, params, model_state, batch, key):
            ascent, sums, aux = grad(player, params, model_state, batch, key)
            moved = self.ascend(tree.select(params, player.params), ascent)
            grads, _, _ = grad(player, tree.merge(params, moved), model_state, batch, key)
            return grads, sums, aux

        return sharpness_aware

    def ascend(self, params: Params, grads: Grads) -> Params:
        """theta + rho g / |g|, of a player's own parameters theta and their gradient g.

        g may be a sum that is not yet divided: its length does not matter.
        """
        scale = self.rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
        return jax.tree.map(lambda p, g: p + scale * g, params, grads)
