"""Identical layers, one after the other, compiled once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core.scope import LazyRng
from jax import Array

from jaxdl.core.errors import InputError, suggest
from jaxdl.parallel import Layers, on_cpu, staged

REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the forward pass keeps of a layer: all, its input, also products, also those of weights."""

COLLECTIONS = ("params", "batch_stats", "losses", "intermediates", "cache")
"""What is stacked over the layers."""

WRITTEN_OUT = 12
"""Layers that one iteration of the loop holds where loops are slow; bounds the time to compile."""


class Stack(nn.Module):
    """`depth` layers `block(name=...)`, scanned: `x = layer(x, train=train)`, depth times.

    Parameters (and statistics) are stacked on a leading dimension, named `layers`; random streams
    differ by layer. `remat` names what is kept for the backward pass; the rest is computed again.
    With it, `segment` consecutive layers are recomputed together, so that between segments only one
    activation is kept: about sqrt(depth) of them need the least memory (Chen et al. 2016,
    arXiv:1604.06174). Neither changes parameters, random streams or results.

    Shapes: as the block, whose output is shaped like its input.

    Raises: InputError on an unknown `remat`, and on a `segment` that does not divide the depth.
    """

    block: Callable[..., nn.Module]
    depth: int
    remat: str = "none"
    segment: int = 1

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, keys: Mapping[str, Array] | None = None
    ) -> Array:
        """Applies the layers in order; `keys` are those of each layer in place of drawn ones."""
        self._check()
        if keys is None:
            keys = {n: jax.random.split(self.make_rng(n), self.depth) for n in self.scope.rngs}
            if (run := staged()) and not self.is_initializing():
                return run(self._layers(keys, train), x)

        def layer(block, x, keys):
            # What is dropped must depend on neither the nesting of the scans nor their tracing.
            block.scope.rngs = {name: LazyRng.create(key) for name, key in keys.items()}
            block.scope.rng_counters = dict.fromkeys(keys, 0)
            return block(x, train=train), None

        block = self.block(name="layers")
        if self.remat == "none" or self.is_initializing():
            unroll = min(self.depth, WRITTEN_OUT) if on_cpu() else 1
            return _scan(layer, self.depth, unroll)(block, x, keys)[0]
        if self.segment == 1:
            return _scan(self._remat(layer), self.depth)(block, x, keys)[0]
        count = self.depth // self.segment

        def split(tree):
            return jax.tree.map(lambda a: a.reshape(count, self.segment, *a.shape[1:]), tree)

        def join(tree):
            return jax.tree.map(lambda a: a.reshape(self.depth, *a.shape[2:]), tree)

        segments = _scan(self._remat(_scan(layer, self.segment)), count)
        mapped = nn.map_variables(segments, COLLECTIONS, split, join, mutable=True)
        return mapped(block, x, split(keys))[0]

    def _layers(self, keys: Mapping[str, Array], train: bool) -> Layers:
        """What a pipeline divides."""

        def apply(params, x, keys):
            depth = jax.tree.leaves(params)[0].shape[0]
            part = Stack(self.block, depth, self.remat, math.gcd(self.segment, depth))
            x, sown = part.apply({"params": params}, x, train=train, keys=keys, mutable=["losses"])
            if sown:
                raise InputError(
                    "the layers add to the loss by themselves, of which a pipeline knows nothing; "
                    "set mesh.pipe=1."
                )
            return x

        return Layers(
            path="/".join(self.path), params=self.variables["params"], keys=keys, apply=apply
        )

    def _remat(self, layer: Callable) -> Callable:
        # The scan already keeps XLA from merging the recomputation with the forward pass.
        return nn.remat(layer, prevent_cse=False, policy=REMAT[self.remat])

    def _check(self) -> None:
        if self.remat not in REMAT:
            raise InputError(f"unknown remat {self.remat!r}; {suggest(self.remat, REMAT)}.")
        if self.depth < 1:
            raise InputError(f"depth={self.depth} must be at least 1.")
        if self.segment < 1 or self.depth % self.segment:
            fits = [n for n in range(1, self.depth + 1) if self.depth % n == 0]
            raise InputError(
                f"segment={self.segment} does not divide depth={self.depth}; its divisors: {fits}."
            )
        if self.segment > 1 and self.remat == "none":
            raise InputError(
                f"segment={self.segment} recomputes nothing with remat='none'; set remat='full'."
            )


def _scan(layer: Callable, length: int, unroll: int = 1) -> Any:
    """`layer(block, x, keys) -> (x, None)`, `length` times over stacked variables and keys."""
    return nn.scan(
        layer,
        variable_axes=dict.fromkeys(COLLECTIONS, 0),
        split_rngs={True: False},
        length=length,
        unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
