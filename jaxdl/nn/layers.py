"""Plain linen layers whose parameters carry logical names.

The dtype of a computation is that of its parameters and inputs: no layer has a dtype field.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.kernels.conv2d import conv2d
from jaxdl.parallel import Names, constrain

named = nn.with_logical_partitioning


def dense(
    features: int,
    names: Names = ("embed", "mlp"),
    *,
    bias: bool = True,
    std: float | None = None,
    name: str | None = None,
) -> nn.Dense:
    """`x W + b`; `names` are those of W's dimensions, `std` its spread (None: LeCun, 1/sqrt(D)).

    Shapes: x [..., D] -> [..., features], W [D, features].
    """
    init = nn.initializers.lecun_normal() if std is None else nn.initializers.normal(std)
    return nn.Dense(
        features,
        use_bias=bias,
        kernel_init=named(init, names),
        bias_init=named(nn.initializers.zeros, names[-1:]),
        name=name,
    )


def conv(
    features: int,
    kernel: int,
    stride: int = 1,
    *,
    padding: int | None = None,
    bias: bool = True,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution; `padding` None is half of an odd kernel, which keeps the image's size.

    Weights start as in He et al. 2015 (arXiv:1502.01852, fan-out).

    Shapes: x [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features] for that padding.
    """
    if padding is None and kernel % 2 == 0:
        raise InputError(f"kernel={kernel} has no middle; try {kernel - 1} or {kernel + 1}.")
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nn.Conv(
        features,
        (kernel, kernel),
        stride,
        # "SAME" pads strided convolutions unevenly, which the published networks do not.
        padding=kernel // 2 if padding is None else padding,
        use_bias=bias,
        kernel_init=named(init, (None, None, "conv_in", "conv_out")),
        bias_init=named(nn.initializers.zeros, ("conv_out",)),
        conv_general_dilated=conv2d,
        name=name,
    )


class Embed(nn.Embed):
    """`nn.Embed` whose rows are looked up in the table as activations of these names lie."""

    names: Names = (None, None)

    def __call__(self, inputs: Array) -> Array:
        """Rows of the table: indices [...] int -> [..., width]."""
        # Else the result would be divided as the parameter is, and then by examples.
        return jnp.take(constrain(self.embedding, self.names), inputs, axis=0)


def embed(
    rows: int,
    width: int,
    names: Names = ("vocab", "embed"),
    *,
    std: float = 0.02,
    name: str | None = None,
) -> Embed:
    """A table of vectors; `.attend(x)` is the tied output layer, `x E^T`.

    Shapes: indices [...] int -> [..., width].
    """
    init = named(nn.initializers.normal(std), names)
    active = ("act_vocab" if names[0] == "vocab" else None, "act_embed")
    return Embed(rows, width, embedding_init=init, names=active, name=name)


def dropout(rate: float, train: bool, *, name: str | None = None) -> nn.Dropout:
    """Zeroes entries with probability `rate` in training, and scales the others by 1 / (1 - rate).

    Srivastava et al. 2014. Uses the `dropout` stream.
    """
    check_rate(rate)
    return nn.Dropout(rate, deterministic=not train, name=name)


def check_rate(rate: float) -> None:
    """Raises InputError on what is no probability to drop."""
    if not 0.0 <= rate < 1.0:
        raise InputError(f"dropout={rate} is the probability to drop; it must lie in [0, 1).")
