"""From per-element losses to Sums."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxdl.core.checks import check_shapes, letters
from jaxdl.core.task import Sums


def sums(values: Array, mask: Array | None = None) -> Sums:
    """Float32 sum of `values` and their number, or both weighted by `mask` of the same shape.

    Where the mask is 0 a value counts nothing, not even when it is infinite or NaN.

    Raises:
        InputError: the mask's shape is another than that of the values.
    """
    values = values.astype(jnp.float32)
    if mask is None:
        return Sums(total=values.sum(), weight=jnp.float32(values.size))
    lead = letters(values.ndim)
    check_shapes({"values": values, "mask": mask}, values=lead, mask=lead)
    mask = mask.astype(jnp.float32)
    return Sums(total=(kept(values, mask) * mask).sum(), weight=mask.sum())


def kept(x: Array, mask: Array | None) -> Array:
    """`x` [*mask.shape, ...] with 0 where the mask is 0.

    A loss takes its inputs through here: were only its value masked, the backward pass would make
    0 * NaN of a masked infinity.
    """
    if mask is None:
        return x
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)) > 0, x, 0.0)
