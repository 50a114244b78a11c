"""The position-wise networks of transformers."""

from __future__ import annotations

from functools import partial

import jax
from flax import linen as nn
from jax import Array

from jaxdl.nn.layers import dense
from jaxdl.parallel import constrain


class GeluMLP(nn.Module):
    """`W2 gelu(W1 x + b1) + b2` (arXiv:1606.08415, section 2).

    gelu is `approximate`, in its tanh form, or exact. `std` and `out_std` are the initial spreads
    of W1 and W2; None is LeCun's.

    Shapes: x [B, T, D] -> [B, T, D], hidden width F.
    """

    width: int
    std: float | None = None
    out_std: float | None = None
    approximate: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps each position on its own."""
        hidden = dense(self.width, ("embed", "mlp"), std=self.std, name="up")(x)
        hidden = constrain(_gelu(hidden, self.approximate), ("batch", "time", "act_mlp"))
        return dense(x.shape[-1], ("mlp", "embed"), std=self.out_std, name="down")(hidden)


def _gelu(x: Array, approximate: bool) -> Array:
    # The exact form is made again on the way back: else XLA keeps several arrays of its parts, and
    # a CPU takes half as long again for the whole network.
    gelu = partial(nn.gelu, approximate=approximate)
    return gelu(x) if approximate else jax.checkpoint(gelu)(x)


class SwiGLU(nn.Module):
    """`W_down (silu(W_gate x) * W_up x)`, without biases (arXiv:2002.05202, eq. 6).

    Shapes: x [B, T, D] -> [B, T, D], hidden width F.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps each position on its own."""
        gate = dense(self.width, ("embed", "mlp"), bias=False, name="gate")(x)
        up = dense(self.width, ("embed", "mlp"), bias=False, name="up")(x)
        hidden = constrain(nn.silu(gate) * up, ("batch", "time", "act_mlp"))
        return dense(x.shape[-1], ("mlp", "embed"), bias=False, name="down")(hidden)
