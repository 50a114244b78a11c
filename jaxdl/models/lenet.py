"""LeNet-5 (LeCun et al. 1998, Gradient-based learning applied to document recognition, fig. 2)."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.nn import constrain, conv, dense


class LeNet(nn.Module):
    """Two 5x5 convolutions with average pools, then layers of 120, 84 and `classes`; tanh.

    The network was drawn for 32x32 images; `pad` zeros on each side make 28x28 ones that large:
    61,706 parameters, and 44,426 with `pad=0`. Unlike in the paper, pools have no weights, the
    second convolution sees all six maps, and the output is linear.

    Shapes: x [B, H, W, C] -> logits [B, classes].
    """

    classes: int = 10
    pad: int = 2

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits."""
        del train
        x = jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        if min(x.shape[1:3]) < 16:
            raise InputError(f"LeNet needs images of at least 16x16 with their padding: {x.shape}.")
        for i, maps in enumerate((6, 16), 1):
            x = nn.tanh(conv(maps, 5, padding=0, name=f"conv_{i}")(x))
            x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((120, 84), 1):
            x = nn.tanh(dense(width, name=f"hidden_{i}")(x))
        logits = dense(self.classes, ("embed", "classes"), name="head")(x)
        return constrain(logits, ("batch", "act_classes"))
