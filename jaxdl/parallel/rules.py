"""Putting logical names on mesh axes: the parameters of a model, and what it computes.

A model names the dimensions of its parameters and activations; a strategy is one dict from those
names to mesh axes. The two vocabularies are disjoint, so that a strategy can split a weight without
splitting the activation of the same width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from flax import linen as nn
from jax import Array
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from jaxdl.core.errors import InputError
from jaxdl.parallel.placement import Names, Rules, check_known, check_rank, spec
from jaxdl.parallel.strategies import ACTIVATIONS, METHODS, PARAMETERS, resolve


def shardings(abstract: Any, mesh: Mesh, rules: str | Rules) -> Any:
    """The NamedSharding of every leaf of a boxed abstract tree (`jax.eval_shape` of an init).

    A leaf without names is replicated.

    Raises:
        InputError: naming the leaf, as `spec` does, and on a name that is no parameter name.
    """
    rules = resolve(rules)

    def place(path, leaf):
        what = f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')}"
        names = leaf.names if _is_boxed(leaf) else (None,) * leaf.ndim
        check_known(names, PARAMETERS, what)
        return NamedSharding(mesh, spec(names, unbox(leaf).shape, mesh, rules, what))

    return jax.tree_util.tree_map_with_path(place, abstract, is_leaf=_is_boxed)


def unbox(tree: Any) -> Any:
    """The plain leaves of a boxed tree."""
    return jax.tree.map(lambda x: x.value if _is_boxed(x) else x, tree, is_leaf=_is_boxed)


@contextlib.contextmanager
def scope(mesh: Mesh | AbstractMesh, rules: str | Rules) -> Iterator[None]:
    """Traces its body for `mesh` under `rules`; enter it inside the jitted function.

    Rules are no part of jit's cache key: use a fresh `jax.jit` per mesh and rules.
    """
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        nn.logical_axis_rules(tuple(resolve(rules).items())),
    ):
        yield


def context() -> tuple[AbstractMesh, dict[str, Any]] | None:
    """The mesh and rules of the current `scope`; None without a mesh or inside a manual region."""
    mesh = jax.sharding.get_abstract_mesh()
    free = free_axes(mesh)
    if not free:
        return None
    rules = current_rules()
    if not rules:
        raise InputError(
            "a mesh is set without sharding rules; enter `parallel.scope(mesh, rules)`."
        )
    only = {name: _only(free, axes) for name, axes in rules.items() if name not in METHODS}
    return mesh, rules | only


def current_rules() -> dict[str, Any]:
    """The rules of the current `scope`; none outside of one."""
    return dict(nn.get_logical_axis_rules())


def free_axes(mesh: AbstractMesh) -> frozenset[str]:
    """The mesh axes that no surrounding shard_map has taken over."""
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return frozenset(name for name, kind in types if kind == AxisType.Auto)


def on_cpu() -> bool:
    """Whether the current `scope` is that of a CPU, which some forms of a program suit better.

    XLA:CPU runs the body of a loop slower than the same operations outside one, for example.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "cpu"


def constrain(x: Array, names: Names) -> Array:
    """`x`, laid out as the current rules say for activations of these names; `x` without a mesh.

    Raises:
        InputError: on a name that is no activation name, or on a rank that does not fit.
    """
    what = f"activation of shape {x.shape}"
    check_known(names, ACTIVATIONS, what)
    check_rank(names, x.shape, what)
    here = context()
    return jax.lax.with_sharding_constraint(x, spec(names, x.shape, *here, what)) if here else x


def device_kind() -> str:
    """What JAX calls the devices of the current `scope`; empty outside of one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else ""


def _only(free: frozenset[str], axes: str | tuple[str, ...] | None):
    if isinstance(axes, str):
        return axes if axes in free else None
    return tuple(axis for axis in axes or () if axis in free) or None


def _is_boxed(x: Any) -> bool:
    return isinstance(x, nn.Partitioned)
