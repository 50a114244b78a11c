"""Data parallelism, replicated or with divided parameters, with its collectives written out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdl.core import tree
from jaxdl.core.task import GradFn
from jaxdl.parallel.placement import axes_of, dividing
from jaxdl.parallel.rules import context, current_rules, shardings


def all_reduced(grad: GradFn, reduce: Callable[[Any], Any], boxed: Any) -> GradFn:
    """`grad` on each device's own rows; gradients, sums and metrics are added by collectives.

    Parameters that the rules divide over the batch's mesh axes (FSDP) are gathered before, all at
    once, and their gradients are scattered as they are added; `boxed` has their logical names.

    Sums are added before they are divided, so that rows that a mask leaves out weigh nothing
    wherever they lie. `reduce` makes one metric state of those along a leading dimension.
    BatchNorm's statistics are of the whole batch (`batch_axes`). Dropout masks are drawn on each
    device, so they differ from those of the step that XLA partitions.
    """

    def reduced(player, params, model_state, batch, key):
        here = context()
        axes = axes_of(here[1]["batch"]) if here else ()
        if not axes:
            return grad(player, params, model_state, batch, key)
        divided = jax.tree.map(partial(_over, axes), shardings(boxed, *here))
        mine = tree.select(divided, player.params)

        def local(params, model_state, batch, key):
            params = jax.tree.map(_gathered, params, divided)
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            grads, sums, (model_state, metrics) = grad(player, params, model_state, batch, key)
            grads = jax.tree.map(partial(_added, axes), grads, mine)
            sums = jax.lax.psum(sums, axes)
            metrics = {n: reduce(m) for n, m in jax.lax.all_gather(metrics, axes).items()}
            return grads, sums, (model_state, metrics)

        return jax.shard_map(
            local,
            in_specs=(divided, P(), P(axes), P()),
            out_specs=(mine, P(), P()),
            axis_names=set(axes),
            # Gathered metrics are the same everywhere, which the check cannot see.
            check_vma=False,
        )(params, model_state, batch, key)

    return reduced


def _over(axes: tuple[str, ...], sharding: NamedSharding) -> P:
    """Which dimensions of an array lie divided over `axes`, the others left to XLA."""
    over = (set(dividing(rule, sharding.mesh)) & set(axes) for rule in sharding.spec)
    return P(*(tuple(axis for axis in axes if axis in found) or None for found in over))


def _gathered(x: jax.Array, spec: P) -> jax.Array:
    """Whole, from what each device holds."""
    for dim, over in enumerate(spec):
        if over:
            x = jax.lax.all_gather(x, over, axis=dim, tiled=True)
    return x


def _added(axes: tuple[str, ...], x: jax.Array, spec: P) -> jax.Array:
    """The sum over `axes`, of which each device keeps what it holds."""
    for dim, over in enumerate(spec):
        if over:
            x = jax.lax.psum_scatter(x, over, scatter_dimension=dim, tiled=True)
    rest = set(axes).difference(*map(axes_of, spec))
    return jax.lax.psum(x, tuple(axis for axis in axes if axis in rest)) if rest else x


def batch_axes() -> tuple[str, ...]:
    """The mesh axes over which the batch is split here by `all_reduced`; statistics of the whole
    batch are taken over them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    manual = {name for name, kind in types if kind == AxisType.Manual}
    return tuple(axis for axis in axes_of(current_rules().get("batch")) if axis in manual)
