"""Normalisations: statistics in float32, result in the dtype of parameters and input."""

from __future__ import annotations

from flax import linen as nn

from jaxdl.nn.layers import named
from jaxdl.parallel import batch_axes

ones, zeros = nn.initializers.ones, nn.initializers.zeros


def layer_norm(*, eps: float = 1e-5, name: str | None = None) -> nn.LayerNorm:
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last dimension (arXiv:1607.06450).

    Shapes: x [..., D] -> [..., D].
    """
    scale, bias = named(ones, ("norm",)), named(zeros, ("norm",))
    return nn.LayerNorm(eps, scale_init=scale, bias_init=bias, name=name)


def rms_norm(*, eps: float = 1e-6, name: str | None = None) -> nn.RMSNorm:
    """`x / sqrt(mean(x^2) + eps) * scale` over the last dimension (arXiv:1910.07467).

    Shapes: x [..., D] -> [..., D].
    """
    return nn.RMSNorm(eps, scale_init=named(ones, ("norm",)), name=name)


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
