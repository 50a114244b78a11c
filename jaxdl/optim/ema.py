"""Exponential moving average of parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def ema_update(average: Any, params: Any, decay: float) -> Any:
    """`decay * average + (1 - decay) * params`; integer leaves are taken over.

    An exponential form of Polyak & Juditsky 1992.
    """

    def leaf(a, p):
        return decay * a + (1 - decay) * p if jnp.issubdtype(p.dtype, jnp.floating) else p

    return jax.tree.map(leaf, average, params)
