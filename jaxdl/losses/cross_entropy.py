"""Cross-entropies from logits, in nats, computed in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxdl.core.checks import check_shapes, letters
from jaxdl.core.errors import InputError
from jaxdl.core.task import Sums
from jaxdl.losses.reduce import kept, sums


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    smoothing: float = 0.0,
    z: float = 0.0,
) -> Sums:
    """Sums of softmax cross-entropy in nats; where the mask is 0, value and gradient are 0.

    `z` adds z * logZ^2 (PaLM, arXiv:2204.02311, section 5). With `smoothing` s the target is 1 - s
    on the label plus s / V everywhere (Szegedy et al. 2015, arXiv:1512.00567, section 7).

    Shapes: logits [..., V], labels [...] integers, mask [...].

    Raises:
        InputError: the shapes disagree; labels of shape (N, 1) against logits (N, V) included.
    """
    lead = letters(logits.ndim - 1)
    arrays = {"logits": logits, "labels": labels, "mask": mask}
    check_shapes(arrays, logits=f"{lead} V", labels=lead, mask=lead)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"labels are {labels.dtype}; cross_entropy takes integer class indices.")
    logits = kept(logits.astype(jnp.float32), mask)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    loss = log_z - _of_label(logits, labels)
    if smoothing:
        loss = (1.0 - smoothing) * loss + smoothing * (log_z - logits.mean(-1))
    if z:
        loss = loss + z * log_z**2
    return sums(loss, mask)


def _of_label(logits: Array, labels: Array) -> Array:
    """The logit of each label; NaN for a label that is no class.

    No gather on several devices: where they divide the classes it costs more, and XLA (jaxlib
    0.10.2) aborts on one in a stage of a pipeline. On one device it is quicker.
    """
    if jax.sharding.get_abstract_mesh().size > 1:
        classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        found = jnp.where(classes == labels[..., None], logits, 0).sum(-1)
    else:
        found = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jnp.where((labels >= 0) & (labels < logits.shape[-1]), found, jnp.nan)


def binary_cross_entropy(
    logits: Array, targets: Array | float, *, mask: Array | None = None
) -> Sums:
    """Sums of sigmoid cross-entropy in nats, `softplus(x) - x * target`; 0 where the mask is 0.

    Shapes: logits [...], targets [...] in [0, 1] or one number for all, mask [...].
    """
    lead = letters(logits.ndim)
    number = isinstance(targets, float | int)
    arrays = {"logits": logits, "targets": None if number else targets, "mask": mask}
    check_shapes(arrays, logits=lead, targets=lead, mask=lead)
    logits = kept(logits.astype(jnp.float32), mask)
    targets = jnp.broadcast_to(jnp.asarray(targets, jnp.float32), logits.shape)
    return sums(optax.sigmoid_binary_cross_entropy(logits, targets), mask)
