"""Cross-entropy of a linear layer over many tokens, without all its logits; see README.md."""

from jaxdl.kernels.linear_cross_entropy.api import Scores, linear_cross_entropy

__all__ = ["Scores", "linear_cross_entropy"]
