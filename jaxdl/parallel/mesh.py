"""The device mesh."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh

from jaxdl.core.errors import InputError


def make_mesh(devices: Sequence[jax.Device] | None = None, **axes: int) -> Mesh:
    """A mesh of all `devices` (default: every device there is), e.g. `make_mesh(data=-1, model=4)`.

    One size may be -1: what the others leave. No axes at all puts every device on `data`.

    Raises:
        InputError: when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _sizes(axes or {"data": -1}, len(devices))
    # JAX builds Explicit axes by default, which logical rules do not serve.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), types, devices=devices)


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
