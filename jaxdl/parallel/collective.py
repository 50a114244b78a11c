"""Data parallelism with its collectives written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdl.core.task import GradFn
from jaxdl.parallel.placement import axes_of
from jaxdl.parallel.rules import context, current_rules


def all_reduced(grad: GradFn, reduce: Callable[[Any], Any]) -> GradFn:
    """`grad` on each device's own rows; gradients, sums and metrics are added by collectives.

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

        def local(params, model_state, batch, key):
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            grads, sums, (model_state, metrics) = grad(player, params, model_state, batch, key)
            grads, sums = jax.lax.psum((grads, sums), axes)
            metrics = {n: reduce(m) for n, m in jax.lax.all_gather(metrics, axes).items()}
            return grads, sums, (model_state, metrics)

        return jax.shard_map(
            local,
            in_specs=(P(), P(), P(axes), P()),
            out_specs=P(),
            axis_names=set(axes),
            # Gathered metrics are the same everywhere, which the check cannot see.
            check_vma=False,
        )(params, model_state, batch, key)

    return reduced


def batch_axes() -> tuple[str, ...]:
    """The mesh axes over which the batch is split here by `all_reduced`; statistics of the whole
    batch are taken over them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    manual = {name for name, kind in types if kind == AxisType.Manual}
    return tuple(axis for axis in axes_of(current_rules().get("batch")) if axis in manual)
