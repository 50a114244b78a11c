"""Where one tensor's dimensions go on a mesh, and why they cannot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxdl.core.errors import InputError, suggest

Names = Sequence[str | None]
"""One logical name per dimension; None is never split."""
Rules = Mapping[str, str | tuple[str, ...] | None]


_used: ContextVar[set[str] | None] = ContextVar("used", default=None)


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The mesh axes over which some tensor is split by what runs inside the block."""
    used: set[str] = set()
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


def axes_of(rule: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes that a rule names."""
    return (rule,) if isinstance(rule, str) else tuple(rule or ())


def dividing(rule: str | tuple[str, ...] | None, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Those of the axes that a rule names along which there is more than one device."""
    return tuple(axis for axis in axes_of(rule) if mesh.shape[axis] > 1)


def spec(
    names: Names, shape: Sequence[int] | None, mesh: Mesh | AbstractMesh, rules: Rules, what: str
) -> PartitionSpec:
    """Where the dimensions of one tensor go; `what` names the tensor in errors.

    A `shape` of None, for a tensor that is yet to be computed, leaves sizes unchecked.

    Raises:
        InputError: on a rank that does not fit, a mesh axis that is absent or asked for twice, or a
            dimension that does not divide.
    """
    check_known(names, rules, what)
    placed = [rules[name] if name else None for name in names]
    split = [axes_of(rule) for rule in placed]
    _check_axes(names, split, mesh, what)
    if shape is not None:
        check_rank(names, shape, what)
        _check_sizes(names, shape, split, mesh, what)
    if (used := _used.get()) is not None:
        used.update(axis for axes in split for axis in axes)
    return PartitionSpec(*placed)


def over_single(
    placed: PartitionSpec, mesh: Mesh | AbstractMesh, axes: Iterable[str]
) -> PartitionSpec:
    """`placed`, whose first dimension is also divided over those of `axes` with a single device.

    It changes nothing but the backward pass of a shard_map, which sums over the axes not named.
    """
    named = {axis for rule in placed for axis in axes_of(rule)}
    single = [axis for axis in mesh.axis_names if axis in axes and mesh.shape[axis] == 1]
    more = [axis for axis in single if axis not in named]
    if not placed or not more:
        return placed
    return PartitionSpec((*axes_of(placed[0]), *more), *placed[1:])


def check_known(names: Names, vocabulary: Iterable[str], what: str) -> None:
    """Raises InputError on a name that is not in the vocabulary, with the nearest that is."""
    for name in filter(None, names):
        if name not in vocabulary:
            raise InputError(f"{what}: unknown logical name {name!r}; {suggest(name, vocabulary)}.")


def check_rank(names: Names, shape: Sequence[int], what: str) -> None:
    """Raises InputError unless there is one name per dimension."""
    if len(names) != len(shape):
        raise InputError(f"{what}: {len(shape)} dimensions, but {len(names)} names {tuple(names)}.")


def _check_axes(names: Names, split, mesh: Mesh | AbstractMesh, what: str) -> None:
    for axis, uses in Counter(axis for axes in split for axis in axes).items():
        wanting = [name for name, axes in zip(names, split, strict=True) if axis in axes]
        if axis not in mesh.shape:
            raise InputError(
                f"{what}: the rules put {wanting[0]!r} on mesh axis {axis!r}, which is not there; "
                f"{suggest(axis, mesh.shape)}."
            )
        if uses > 1:
            raise InputError(
                f"{what} {tuple(names)}: dimensions {' and '.join(map(repr, wanting))} ask for the "
                f"same mesh axis {axis!r}; map one of them to None, or to another of: "
                f"{', '.join(mesh.shape)}."
            )


def _check_sizes(names: Names, shape, split, mesh: Mesh | AbstractMesh, what: str) -> None:
    for dim, (name, size, axes) in enumerate(zip(names, shape, split, strict=True)):
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            over = " x ".join(dividing(axes, mesh))
            raise InputError(
                f"{what}: dimension {dim} ({name!r}) of size {size} does not divide into {parts} "
                f"parts (mesh axis {over}); {math.gcd(size, parts)} parts or size "
                f"{-(-size // parts) * parts} would, or map {name!r} to None."
            )
