"""Identical layers, one after the other, compiled once."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError, suggest

REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the forward pass keeps of a layer: all, its input, also products, also those of weights."""


class Stack(nn.Module):
    """`depth` layers `block(name=...)`, scanned: `x = layer(x, train=train)`, depth times.

    Parameters (and statistics) are stacked on a leading dimension, named `layers`; random streams
    differ by layer. `remat` names what is kept for the backward pass; the rest is computed again.

    Shapes: as the block, whose output is shaped like its input.
    """

    block: Callable[..., nn.Module]
    depth: int
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Applies the layers in order."""
        if self.remat not in REMAT:
            raise InputError(f"unknown remat {self.remat!r}; {suggest(self.remat, REMAT)}.")
        if self.depth < 1:
            raise InputError(f"depth={self.depth} must be at least 1.")

        def layer(block, x, _):
            return block(x, train=train), None

        if self.remat != "none":
            # The scan already keeps XLA from merging the recomputation with the forward pass.
            layer = nn.remat(layer, prevent_cse=False, policy=REMAT[self.remat])
        scan = nn.scan(
            layer,
            variable_axes={"params": 0, "batch_stats": 0, "losses": 0, "intermediates": 0},
            split_rngs={True: True},
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(self.block(name="layers"), x, None)[0]
