"""The fewest bytes that a strategy has to send between devices in a step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxdl import parallel
from jaxdl.core import tree
from jaxdl.core.precision import policy
from jaxdl.parallel.pipeline_schedule import CHUNKS
from jaxdl.train import Program

Axes = tuple[str, ...]
SUMMED = ("heads", "mlp")
"""A product over these leaves each device of a tensor-parallel group with a part of the sum."""
STATISTICS = 8
"""Bytes per token of a softmax over a divided vocabulary: a maximum and a sum, in float32."""


def minimum(program: Program, names: Mapping[str, Sequence[str | None]]) -> Counter[Axes]:
    """Bytes that each device has to send in a step, by mesh axes, counted as `plan.hlo` does.

    `names` are the logical names of the parameters, by path. Gradients and gathered parameters
    are in the compute dtype. Over n devices that divide the examples (or positions)

    * the gradient of a parameter of P bytes that all hold costs an all-reduce, 2 P (n-1)/n, or,
      where they divide its optimizer state (ZeRO-1), a reduce-scatter and an all-gather of the
      parameter itself, which is in float32;
    * a parameter that they divide costs an all-gather, one more in the backward pass if it is of a
      stack of layers, and a reduce-scatter, so 2 or 3 P (n-1)/n, for every micro-batch (Rajbhandari
      et al. 2019, arXiv:1910.02054, section 7.2.2).

    Over n devices that divide heads and hidden units, each product that sums over them costs an
    all-reduce of the activation between layers forward and one backward, 4 A (n-1)/n (Shoeybi et
    al. 2019, arXiv:1909.08053, section 3). Where layers are computed twice, all but the last of a
    layer cost one more. A divided vocabulary costs one each way and the softmax's statistics.
    Stages of a pipeline hand on each activation once each way and chunk (what they send in slots
    without work is not needed), and add up the gradients of what they all hold, once, in the
    parameter's own type (Narayanan et al. 2021, arXiv:2104.04473, section 3.2).

    Activations are known of language models only; rings and mixtures are not counted.
    """
    params = tree.flatten(program.abstract.params)
    counted: Counter[Axes] = Counter()
    for path, leaf in params.items():
        counted += _gradient(program, leaf, names[path])
        counted += _activation(program, leaf, names[path])
    return counted


def _gradient(program: Program, leaf: Any, names: Sequence[str | None]) -> Counter[Axes]:
    mesh = program.mesh.shape
    by_dim = dict(zip(names, map(parallel.axes_of, leaf.sharding.spec), strict=False))
    split = {axis for axes in by_dim.values() for axis in axes}
    sharing = [
        axis for axis in _axes(program, "batch", "time") if axis not in by_dim.get("experts", ())
    ]
    inside = tuple(axis for axis in sharing if axis in split)
    outside = tuple(axis for axis in sharing if axis not in split)
    size = leaf.size * _itemsize(program) / math.prod(mesh[a] for a in split if a not in inside)
    passes = (3 if "layers" in names else 2) * program.experiment.accumulate
    found = Counter({inside: round(passes * size * _share(mesh, inside))})
    size /= math.prod(mesh[a] for a in inside)
    updated_in_parts = leaf.ndim > 1 and set(outside) <= set(_axes(program, "optimizer"))
    twice = 1 + leaf.dtype.itemsize / _itemsize(program) if updated_in_parts else 2
    found[outside] += round(twice * size * _share(mesh, outside))
    if "pipe" not in split:
        whole = size * leaf.dtype.itemsize / _itemsize(program)
        found["pipe",] += round(2 * whole * _share(mesh, ("pipe",)))
    return +found


def _activation(program: Program, leaf: Any, names: Sequence[str | None]) -> Counter[Axes]:
    """What comes of the products with one parameter."""
    found: Counter[Axes] = Counter()
    mesh, width = program.mesh.shape, leaf.shape[-1]
    if len(names) < 2 or names[-1] != "embed" or "tokens" not in program.batch:
        return found
    rows, length = program.batch["tokens"].shape
    devices = math.prod(mesh[axis] for axis in _axes(program, "batch", "time"))
    tokens = rows * (length - 1) // devices
    size = tokens * width * _itemsize(program)
    over = _axes(program, names[-2]) if names[-2] else ()
    share = 2 * _share(mesh, over)
    if names[-2] in SUMMED and "experts" not in names:
        layers = leaf.sharding.shard_shape(leaf.shape)[0] if names[0] == "layers" else 1
        again = names[-2] == "heads" and getattr(program.experiment.model, "remat", "") == "full"
        found[over] += round(layers * (2 + again) * size * share)
    elif names[-2] == "vocab":
        found[over] += round((2 * size + tokens * STATISTICS) * share)
        if mesh["pipe"] > 1:
            found["pipe",] += 2 * size * CHUNKS[program.experiment.pipeline]
    return +found


def _axes(program: Program, *names: str) -> Axes:
    """The axes, of more than one device, on which the rules put these names."""
    asked = {axis for name in names for axis in parallel.axes_of(program.rules[name])}
    return tuple(axis for axis, size in program.mesh.shape.items() if axis in asked and size > 1)


def _share(mesh: Mapping[str, int], axes: Axes) -> float:
    """(n - 1) / n."""
    return 1 - 1 / math.prod(mesh[axis] for axis in axes)


def _itemsize(program: Program) -> int:
    return jnp.dtype(policy(program.experiment.precision).compute).itemsize
