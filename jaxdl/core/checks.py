"""Shape checks that name the argument (on chex), made while tracing and free at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex

from jaxdl.core.errors import InputError


def check_shapes(arrays: Mapping[str, Any], **shapes: str) -> dict[str, int]:
    """Sizes by letter, after checking that each array has its declared shape.

    `check_shapes({"logits": x, "labels": y}, logits="B T V", labels="B T")`; `...` stands for any
    leading dimensions, a number for itself. A letter has one size everywhere, that of its first
    use; an argument that is None is left out.

    Raises:
        InputError: naming the argument, its shape, what was expected and what set the sizes.
    """
    sizes: dict[str, int] = {}
    for name, spec in shapes.items():
        if arrays[name] is None:
            continue
        shape, dims = tuple(arrays[name].shape), spec.split()
        free = dims[:1] == ["..."]
        dims = dims[free:]
        tail = shape[len(shape) - len(dims) :] if free and len(shape) >= len(dims) else shape
        before = dict(sizes)
        for dim, size in zip(dims, tail, strict=False):
            sizes.setdefault(dim, int(dim) if dim.isdigit() else size)
        try:
            chex.assert_shape([_Shaped(tail)], tuple(sizes.get(dim) for dim in dims))
        except AssertionError:
            want = [d if d.isdigit() or d not in before else f"{d}={before[d]}" for d in dims]
            given = [f"{n} {tuple(x.shape)}" for n, x in arrays.items() if x is not None]
            raise InputError(
                f"{name} has shape {shape}, but [{', '.join(['...'] * free + want)}] is expected; "
                f"given: {', '.join(given)}."
            ) from None
    return sizes


def letters(ndim: int) -> str:
    """A spec for `check_shapes` of so many dimensions, each with its own letter."""
    return " ".join(f"B{i}" for i in range(ndim))


class _Shaped:
    """The least that chex asks of an array."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
