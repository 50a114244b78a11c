"""Attention without its matrix in memory; see README.md for what was measured."""

from jaxdl.kernels.flash_attention.api import attention_gradients, flash_attention
from jaxdl.kernels.flash_attention.spec import DropWeights, seeds_of

__all__ = ["DropWeights", "attention_gradients", "flash_attention", "seeds_of"]
