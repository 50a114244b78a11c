"""What is divided how, what is not, and what each strategy costs against what it must."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
from flax.core import meta

from jaxdl import parallel
from jaxdl.core import tree
from jaxdl.plan.compiled import Plan, shard_bytes
from jaxdl.plan.minimum import Axes, minimum
from jaxdl.train import Program
from jaxdl.train.functions import functions

LARGE = 64e6
"""Bytes from which on a tensor that every device holds is reported."""


@dataclass(frozen=True)
class Parameter:
    """Where one parameter lies."""

    path: str
    names: tuple[str | None, ...]
    shape: tuple[int, ...]
    spec: tuple[Axes, ...]
    """Mesh axes of each dimension."""
    bytes: int
    """On one device."""


@dataclass(frozen=True)
class Traffic:
    """What one device sends along some mesh axes in a step."""

    axes: Axes
    bytes: int
    minimum: int
    """What the strategy needs there; 0 where it is not known."""
    kinds: dict[str, int]
    """Bytes by kind of collective."""

    @property
    def ratio(self) -> float | None:
        """How much more than the minimum."""
        return self.bytes / self.minimum if self.minimum else None


@dataclass(frozen=True)
class Audit:
    """Of a program and of the step compiled from it."""

    parameters: list[Parameter]
    whole: dict[str, int]
    """Large tensors of the state that every device holds as a whole, with their bytes."""
    traffic: list[Traffic]
    """Most bytes first."""


def audit(program: Program, plan: Plan, large: float = LARGE) -> Audit:
    """Reads off the program where its state lies, and off the plan what its step sends."""
    names = logical_names(program)
    leaves = tree.flatten(program.abstract.params)
    parameters = [
        Parameter(path, names[path], leaf.shape, _spec(leaf), shard_bytes(leaf))
        for path, leaf in leaves.items()
    ]
    needed = minimum(program, names)
    sent: dict[Axes, Counter[str]] = {}
    for one in plan.collectives:
        sent.setdefault(one.axes, Counter())[one.kind] += one.total
    traffic = [
        Traffic(axes, kinds.total(), needed[axes], dict(kinds)) for axes, kinds in sent.items()
    ]
    return Audit(
        parameters=parameters,
        whole=_whole(program, large),
        traffic=sorted(traffic, key=lambda t: -t.bytes),
    )


def logical_names(program: Program) -> dict[str, tuple[str | None, ...]]:
    """The logical names of every parameter's dimensions, by path."""
    fns = functions(program.experiment, program.batch, on_cpu=program.emulated)
    boxed = jax.eval_shape(fns.init)[0]
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_boxed)
    return {
        tree.path_of(path): leaf.names if _is_boxed(leaf) else (None,) * leaf.ndim
        for path, leaf in leaves
    }


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, meta.AxisMetadata)


def _spec(leaf: Any) -> tuple[Axes, ...]:
    """The axes, of more than one device, that divide each dimension."""
    entries = (*leaf.sharding.spec, *(None,) * (leaf.ndim - len(leaf.sharding.spec)))
    return tuple(parallel.dividing(entry, leaf.sharding.mesh) for entry in entries)


def _whole(program: Program, large: float) -> dict[str, int]:
    if program.mesh.size == 1:
        return {}
    sizes = {
        path: (shard_bytes(leaf), leaf.size * leaf.dtype.itemsize)
        for path, leaf in tree.flatten(program.abstract).items()
    }
    return {path: mine for path, (mine, all_) in sizes.items() if mine == all_ > large}
