"""Floating-point operations, counted from the jaxpr.

XLA's own cost analysis counts a loop's body once and differs between backends.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

UNBOUNDED = "while[one trip]"
"""The path component under which the body of a `while` is counted, whose trips nobody knows."""


def flops(jaxpr: ClosedJaxpr | Jaxpr) -> Counter[str]:
    """FLOPs of matrix products and convolutions (2 per multiply-add), by name stack.

    A scan counts its body as often as it runs, a `cond` its most expensive branch (a
    `platform_dependent` its default), a `shard_map` all its shards, a `pallas_call` every step of
    its grid, and a `while` one trip, under a path that says so (`UNBOUNDED`). Padding counts, as is
    the custom.
    """
    found: Counter[str] = Counter()
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        here, kind, params = str(eqn.source_info.name_stack), eqn.primitive.name, eqn.params
        if kind in COSTS:
            found[here] += COSTS[kind](eqn)
        elif kind == "cond":
            found += _under(here, max(map(flops, _branches(params)), key=Counter.total))
        else:
            here = _join(here, UNBOUNDED if kind == "while" else "")
            trips = TRIPS[kind](params) if kind in TRIPS else 1
            for inner in _jaxprs(params):
                found += _under(here, flops(inner), trips)
    return found


def _branches(params: dict[str, Any]) -> Sequence[ClosedJaxpr]:
    """What a `cond` may run; of a `platform_dependent` the default, which is the specification."""
    every, platforms = params["branches"], params.get("branches_platforms") or ()
    return [every[platforms.index(None)]] if None in platforms else every


def _dot(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(eqn.invars[0].aval.shape[dim] for dim in contracted)
    return 2 * depth * math.prod(eqn.outvars[0].aval.shape)


def _conv(eqn: Any) -> int:
    kernel = eqn.invars[1].aval.shape
    outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    taps = math.prod(kernel) // outputs
    # The gradient of a strided convolution dilates its input with zeros, which cost nothing.
    zeros = math.prod(eqn.params["lhs_dilation"])
    return 2 * taps * math.prod(eqn.outvars[0].aval.shape) // zeros


def _shards(params: dict[str, Any]) -> int:
    # Older versions of JAX call it `manual_axes`.
    axes = params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]
    return math.prod(params["mesh"].shape[axis] for axis in axes)


COSTS = {"dot_general": _dot, "conv_general_dilated": _conv}
TRIPS = {
    "scan": lambda params: params["length"],
    "pallas_call": lambda params: math.prod(params["grid_mapping"].grid),
    "shard_map": _shards,
}


def _jaxprs(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item


def _under(path: str, inner: Counter[str], trips: int = 1) -> Counter[str]:
    # Name stacks inside a nested jaxpr are relative to its equation.
    return Counter({_join(path, name): trips * count for name, count in inner.items()})


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))
