"""Normalisations: statistics in float32, result in the dtype of parameters and input."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
from jax import Array

from jaxdl.kernels import layer_norm as kernels
from jaxdl.nn.layers import named
from jaxdl.parallel import batch_axes, device_kind, spread

ones, zeros = nn.initializers.ones, nn.initializers.zeros


class LayerNorm(nn.Module):
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last dimension (arXiv:1607.06450).

    With a `residual`, `h = x + residual` is normalised and returned too, both in one pass.

    Shapes: x and residual [B, ..., D] -> y [B, ..., D], or y and h.
    """

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, residual: Array | None = None) -> Array | tuple[Array, Array]:
        """Rows of mean 0 and variance 1, scaled and shifted."""
        scale = self.param("scale", named(ones, ("norm",)), x.shape[-1:])
        bias = self.param("bias", named(zeros, ("norm",)), x.shape[-1:])
        return kernels.layer_norm(x, scale, bias, residual=residual, eps=self.eps, **_placed(x))


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * scale` over the last dimension (arXiv:1910.07467).

    All else is as in `LayerNorm`.
    """

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, residual: Array | None = None) -> Array | tuple[Array, Array]:
        """Rows of mean square 1, scaled."""
        scale = self.param("scale", named(ones, ("norm",)), x.shape[-1:])
        return kernels.rms_norm(x, scale, residual=residual, eps=self.eps, **_placed(x))


def layer_norm(*, eps: float = 1e-5, name: str | None = None) -> LayerNorm:
    """A `LayerNorm`.

    Shapes: x [..., D] -> [..., D].
    """
    return LayerNorm(eps, name=name)


def rms_norm(*, eps: float = 1e-6, name: str | None = None) -> RMSNorm:
    """An `RMSNorm`.

    Shapes: x [..., D] -> [..., D].
    """
    return RMSNorm(eps, name=name)


def _placed(x: Array) -> dict[str, Any]:
    """How the rows of x lie: examples, positions if there is one more dimension, and features."""
    lead = ("batch", "norm_time") if x.ndim == 3 else ("batch", *(None,) * (x.ndim - 2))
    names = (*lead[: x.ndim - 1], None)
    return {"device": device_kind(), "spread": spread(rows=names, sums=names, weight=(None,))}


def batch_norm(
    train: bool,
    *,
    momentum: float = 0.9,
    eps: float = 1e-5,
    zero: bool = False,
    name: str | None = None,
) -> nn.BatchNorm:
    """Normalises each channel over the batch in training, by running float32 averages otherwise.

    `momentum` is the decay, `average = momentum * average + (1 - momentum) * batch` (torch's 0.1 is
    this 0.9); `zero` starts the scale at 0, which makes a residual branch start as the identity.
    Ioffe & Szegedy 2015 (arXiv:1502.03167). Averages live in `batch_stats`.

    Shapes: x [B, ..., C] -> [B, ..., C].
    """
    return nn.BatchNorm(
        use_running_average=not train,
        axis_name=batch_axes() or None,
        momentum=momentum,
        epsilon=eps,
        scale_init=named(zeros if zero else ones, ("norm",)),
        bias_init=named(zeros, ("norm",)),
        name=name,
    )
