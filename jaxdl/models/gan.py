"""A small generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.nn import constrain, dense


class Generator(nn.Module):
    """`tanh(W2 relu(W1 z))`, an image in [-1, 1]; 114,064 parameters by default.

    Shapes: z [B, latent] -> [B, *shape].
    """

    hidden: int = 128
    shape: tuple[int, ...] = (28, 28, 1)
    latent: int = 100

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        """Images."""
        if z.shape[-1] != self.latent:
            raise InputError(f"noise of width {z.shape[-1]} for latent={self.latent}.")
        hidden = nn.relu(dense(self.hidden, name="hidden")(z))
        hidden = constrain(hidden, ("batch", "act_mlp"))
        x = nn.tanh(dense(math.prod(self.shape), ("mlp", "embed"), name="out")(hidden))
        x = x.reshape(z.shape[0], *self.shape)
        return constrain(x, ("batch",) + (None,) * len(self.shape))


class Critic(nn.Module):
    """`w2 leaky_relu(W1 x)`, the log-odds that x is real; 100,609 parameters at 784 pixels.

    Shapes: x [B, ...] -> logits [B].
    """

    hidden: int = 128

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits."""
        hidden = dense(self.hidden, name="hidden")(x.reshape(x.shape[0], -1))
        hidden = constrain(nn.leaky_relu(hidden, 0.2), ("batch", "act_mlp"))
        return dense(1, ("mlp", None), name="head")(hidden)[:, 0]


@dataclass(frozen=True)
class GAN:
    """Both players' networks."""

    generator: Generator
    critic: Critic
