"""Single-device functions on shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxdl.core.errors import InputError
from jaxdl.parallel.placement import Names, over_single, spec
from jaxdl.parallel.rules import context, free_axes


def per_shard(fn: Callable, in_names: Sequence[Names], out_names: Any) -> Callable:
    """`fn` on local blocks, through shard_map over the context mesh and rules; `fn` without a mesh.

    Kernels need this: a Mosaic kernel is never partitioned automatically. `fn` must treat split
    dimensions independently, since a block sees nothing of the others.

    Args:
        fn: of arrays, returning an array, or a tuple of them.
        in_names: logical names of each argument's dimensions.
        out_names: those of the result, or a list with those of each result.
    """

    def call(*args):
        here = context()
        if here is None:
            return fn(*args)
        if len(args) != len(in_names):
            raise InputError(f"per_shard: {len(args)} arguments, but names for {len(in_names)}.")
        mesh, rules = here
        what = f"of {getattr(fn, '__name__', type(fn).__name__)}"
        free = free_axes(mesh)
        in_specs = tuple(
            over_single(spec(names, x.shape, mesh, rules, f"argument {i} {what}"), mesh, free)
            for i, (names, x) in enumerate(zip(in_names, args, strict=True))
        )

        def result(names):
            return over_single(spec(names, None, mesh, rules, f"result {what}"), mesh, free)

        return jax.shard_map(
            fn,
            in_specs=in_specs,
            out_specs=(
                tuple(map(result, out_names)) if isinstance(out_names, list) else result(out_names)
            ),
            axis_names=free,
            # pallas_call declares no varying axes, which the check would demand of it.
            check_vma=False,
        )(*args)

    return call
