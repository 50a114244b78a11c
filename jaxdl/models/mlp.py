"""The multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable

from flax import linen as nn
from jax import Array

from jaxdl.nn import constrain, dense, dropout


class MLP(nn.Module):
    """A classifier of flattened examples: `x = drop(activation(W x + b))` per width, then logits.

    784-128-64-32-10 has 111,146 parameters.

    Shapes: x [B, ...] -> logits [B, classes].
    """

    widths: tuple[int, ...]
    classes: int
    dropout: float = 0.0
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits."""
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = self.activation(dense(width, name=f"hidden_{i}")(x))
            x = dropout(self.dropout, train)(constrain(x, ("batch", "act_mlp")))
        logits = dense(self.classes, ("embed", "classes"), name="head")(x)
        return constrain(logits, ("batch", "act_classes"))
