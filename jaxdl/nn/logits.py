"""Logits of many tokens that need not exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.kernels.linear_cross_entropy import Scores, linear_cross_entropy
from jaxdl.parallel import spread_vocabulary


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Logits:
    """The logits `features table^T` of the first `vocab` rows of a table, before they are computed.

    Shapes: features [B, T, D], table [V, D], V >= vocab.
    """

    features: Array
    table: Array
    vocab: int = field(metadata={"static": True})

    def scores(
        self, labels: Array, mask: Array | None = None, *, z: float = 0.0, smoothing: float = 0.0
    ) -> Scores:
        """Their cross-entropy, as `losses.cross_entropy` has it, from a few of them at a time.

        Products are rounded only after they are added up, so that in half precision the loss is
        nearer to the exact one than by logits that were rounded before.

        Shapes: labels and mask [B, T].
        """
        weights = None if mask is None else mask.astype(jnp.float32)
        return linear_cross_entropy(
            self.features,
            self.table,
            labels,
            weights=weights,
            tied=True,
            vocab=self.vocab,
            z=z,
            smoothing=smoothing,
            spread=spread_vocabulary(tied=True),
        )
