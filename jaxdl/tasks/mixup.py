"""Mixtures of examples and of their labels (mixup: Zhang et al. 2018, arXiv:1710.09412)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.task import Key


def mix(images: Array, mask: Array | None, key: Key, alpha: float) -> tuple[Array, Array]:
    """`share * image + (1 - share) * partner`, and the share of each row's own image.

    One share is drawn from Beta(alpha, alpha) for all rows; a row's partner is the one before it,
    since rows come in random order and a neighbour is near on every sharding. Rows are those of one
    micro-batch or virtual shard: other numbers of them make other pairs. A row whose partner the
    mask hides stays as it is.

    Shapes: images [B, ...], mask [B] -> [B, ...] float, share [B] float32.
    """
    share = jnp.full(len(images), jax.random.beta(key, alpha, alpha, dtype=jnp.float32))
    if mask is not None:
        share = jnp.where(partners(mask) > 0, share, 1.0)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        images = images.astype(jnp.float32)
    own = share.reshape(-1, *(1,) * (images.ndim - 1)).astype(images.dtype)
    # A hidden row may hold anything, of which even 0 times is no 0.
    return jnp.where(own < 1, own * images + (1 - own) * partners(images), images), share


def partners(x: Array) -> Array:
    """Of each row [B, ...] that which it is mixed with."""
    return jnp.roll(x, 1, axis=0)
