"""Losses: pure functions from logits and targets to `Sums`."""

from jaxdl.losses.cross_entropy import binary_cross_entropy, cross_entropy
from jaxdl.losses.reduce import kept, sums

__all__ = ["binary_cross_entropy", "cross_entropy", "kept", "sums"]
