"""Layer and RMS normalisation over the last dimension; see README.md for what was measured."""

from jaxdl.kernels.layer_norm.api import layer_norm, rms_norm

__all__ = ["layer_norm", "rms_norm"]
