"""Single-device functions on shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh

from jaxdl.core.errors import InputError
from jaxdl.parallel.placement import Names, over_single, spec
from jaxdl.parallel.rules import context, current_rules, free_axes, scope


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


@dataclass(frozen=True)
class Spread:
    """`per_shard` by kinds of arrays, in the scope in which `spread` made it.

    A kernel that owns its gradient runs either direction through this: its backward pass may be
    traced outside the scope, and that of shard_map would add up gradients over axes that divide
    nothing.
    """

    names: tuple[tuple[str, Names], ...]
    mesh: AbstractMesh
    rules: tuple[tuple[str, Any], ...]

    def __call__(self, fn: Callable, inputs: Sequence[str], outputs: Sequence[str]) -> Callable:
        """`fn`, of arrays of the kinds `inputs`, with a tuple of `outputs`, on local blocks."""
        names = dict(self.names)

        def call(*args):
            with scope(self.mesh, dict(self.rules)):
                return per_shard(fn, [names[k] for k in inputs], [names[k] for k in outputs])(*args)

        return call


def spread(**names: Names) -> Spread | None:
    """A `Spread` for arrays of kinds with such names; None where `per_shard` changes nothing."""
    here = context()
    return here and Spread(tuple(names.items()), here[0], tuple(current_rules().items()))
