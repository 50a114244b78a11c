"""The device mesh: six axes, one for each way of dividing the work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxdl.core.errors import InputError, suggest

AXES = {
    "data": "examples; every device holds all parameters",
    "pipe": "layers, in stages that work one after the other",
    "fsdp": "examples, and parameters with their optimizer state",
    "seq": "positions of a sequence",
    "expert": "examples, and the experts of a mixture",
    "model": "heads, hidden units and vocabulary",
}
"""Outermost first: neighbours along `model` talk most and lie nearest to each other."""
SLICES = "slices"
"""Beside the axes in a mesh of several slices; devices tell by themselves where they are real."""


def make_mesh(devices: Sequence[jax.Device] | None = None, **sizes: int) -> Mesh:
    """A mesh of all `devices` (default: every device there is), e.g. `make_mesh(data=-1, model=4)`.

    It has every axis of `AXES`; those not named have size 1. One size may be -1: what the others
    leave. No sizes at all put every device on `data`. Where devices lie in several slices, the
    first axis that their number divides crosses the slow network between them; `slices=` makes
    believe that equal runs of `devices` are slices.

    Raises:
        InputError: when an axis is unknown, or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = _slices(devices, sizes.pop(SLICES, 0))
    for name in sizes:
        if name not in AXES:
            raise InputError(f"there is no mesh axis {name!r}; {suggest(name, AXES)}.")
    found = dict.fromkeys(AXES, 1) | _sizes(sizes or {"data": -1}, len(devices))
    # JAX builds Explicit axes by default, which logical rules do not serve.
    return Mesh(_grid(found, slices), tuple(AXES), axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: Sequence[jax.Device], count: int) -> list[list[jax.Device]]:
    """The devices of each slice, all equally many."""
    if count:
        if count < 1 or len(devices) % count:
            raise InputError(
                f"slices={count} does not divide {len(devices)} devices; "
                f"{math.gcd(count, len(devices))} does."
            )
        size = len(devices) // count
        return [list(devices[i : i + size]) for i in range(0, len(devices), size)]
    numbers = sorted({getattr(d, "slice_index", 0) or 0 for d in devices})
    slices = [[d for d in devices if (getattr(d, "slice_index", 0) or 0) == n] for n in numbers]
    if len({len(part) for part in slices}) > 1:
        counts = ", ".join(str(len(part)) for part in slices)
        raise InputError(f"the slices have {counts} devices; give the mesh equally many of each.")
    return slices


def _grid(sizes: Mapping[str, int], slices: list[list[jax.Device]]) -> np.ndarray:
    """Devices by their coordinates; an axis that crosses slices has them one after the other."""
    count = len(slices)
    crossing = next((name for name, size in sizes.items() if size % count == 0), None)
    if crossing is None:
        told = ", ".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
        raise InputError(
            f"no axis of the mesh {told} can cross {count} slices; make data a multiple of {count}."
        )
    inner = dict(sizes) | {crossing: sizes[crossing] // count}
    blocks = [
        mesh_utils.create_device_mesh(
            tuple(inner.values()), part, allow_split_physical_axes=part[0].platform == "tpu"
        )
        for part in slices
    ]
    return np.concatenate(blocks, axis=list(sizes).index(crossing))


def _sizes(axes: Mapping[str, int], count: int) -> dict[str, int]:
    """`axes` with its -1 filled in."""
    asked = ", ".join(f"{name}={size}" for name, size in axes.items())
    open_axes = [name for name, size in axes.items() if size == -1]
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in axes.values()):
        raise InputError(f"mesh {asked}: sizes are at least 1, and only one of them may be -1.")
    fixed = math.prod(size for size in axes.values() if size != -1)
    if count % fixed if open_axes else count != fixed:
        near = ", ".join(f"{name}={size}" for name, size in _nearest(axes, count).items())
        raise InputError(
            f"mesh {asked} takes {'a multiple of ' if open_axes else ''}{fixed} devices, but there "
            f"are {count}; the nearest mesh that works is {near}. "
            "To use fewer devices, hide the others from the process, or pass `devices`."
        )
    return {name: count // fixed if size == -1 else size for name, size in axes.items()}


def _nearest(axes: Mapping[str, int], count: int) -> dict[str, int]:
    """The mesh of `count` devices whose sizes are nearest, by factors, to those asked for."""

    def distance(sizes: tuple[int, ...]) -> float:
        pairs = zip(sizes, axes.values(), strict=True)
        return sum(abs(math.log(size / ask)) for size, ask in pairs if ask != -1)

    return dict(zip(axes, min(_factorisations(count, len(axes)), key=distance), strict=True))


def _factorisations(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (count,)
        return
    for first in (d for d in range(1, count + 1) if count % d == 0):
        for rest in _factorisations(count // first, parts - 1):
            yield first, *rest
