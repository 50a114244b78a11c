"""A model at a glance: what it is made of, how large and how dear each part is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn

from jaxdl.core.errors import InputError
from jaxdl.core.flops import UNBOUNDED, flops


@dataclass(frozen=True)
class Row:
    """One module: all its calls together."""

    path: str
    """Root class and path, e.g. `GPT/blocks/layers/attention`, with `.method` unless `__call__`."""
    type: str
    shape: Any
    """Of the output; a tree of shapes if that is a tree."""
    params: int
    """Under it, children included."""
    flops: int
    """Its own in all its calls, children excluded."""


@dataclass(frozen=True)
class Table:
    """The rows in order of first call, and the totals of the whole function."""

    rows: tuple[Row, ...]
    params: int
    """Of all root modules."""
    flops: int
    """Of all there is, in modules or not; one trip only of each `while`."""
    unbounded: bool
    """Whether a `while` hides FLOPs from the count."""

    def __str__(self) -> str:
        """Aligned columns."""
        cells = [("module", "type", "output", "parameters", "FLOPs")]
        cells += [
            (r.path, r.type, str(r.shape), f"{r.params:,}", f"{r.flops:,}") for r in self.rows
        ]
        more = " at least" if self.unbounded else ""
        cells += [(f"total{more}", "", "", f"{self.params:,}", f"{self.flops:,}")]
        wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
        left = "{:<{}}  {:<{}}  {:<{}}  {:>{}}  {:>{}}"
        pairs = (zip(line, wide, strict=True) for line in cells)
        return "\n".join(left.format(*(x for pair in line for x in pair)) for line in pairs)


def table(fn: Callable, *args: Any) -> Table:
    """The table of all linen modules that `fn(*args)` calls: one abstract trace, nothing computed.

    `args` may be `jax.ShapeDtypeStruct`s; `table(model.init, key, x)` counts the forward pass.
    Root modules of one class share their rows unless they are named.
    """
    recorder = _Recorder()
    with nn.intercept_methods(recorder):
        jaxpr = jax.make_jaxpr(fn)(*args)
    if not recorder.calls:
        raise InputError("table: no module was called; was `fn` traced before, under jit?")
    return recorder.table(flops(jaxpr))


class _Recorder:
    """An interceptor of module calls that marks their operations in the jaxpr."""

    def __init__(self):
        self.calls: dict[tuple[str, tuple[str, ...], str], tuple[str, Any]] = {}
        self.trees: dict[str, Any] = {}
        self.roots: list[str] = []

    def __call__(self, call, args, kwargs, context):
        module, kind = context.module, type(context.module).__name__
        # Lifted functions pass here as well; they are no methods of the module's class.
        if context.method_name == "setup" or not hasattr(type(module), context.method_name):
            return call(*args, **kwargs)
        is_root = not module.path
        if is_root:
            self.roots.append(module.name or kind)
        root = self.roots[-1]
        key = root, module.path, context.method_name
        self.calls.setdefault(key, (kind, None))
        # Flax's own scopes do not spell the path, since lifted functions add theirs.
        with jax.named_scope(f"@{list(self.calls).index(key)}"):
            out = call(*args, **kwargs)
        self.calls[key] = kind, jax.tree.map(lambda x: x.shape, out)
        if is_root:
            self.trees[root] = module.variables.get("params", {})
            self.roots.pop()
        return out

    def table(self, counts: Counter[str]) -> Table:
        own: Counter[int] = Counter()
        for scopes, count in counts.items():
            if marks := re.findall(r"@(\d+)", scopes):
                own[int(marks[-1])] += count
        rows = []
        for index, ((root, path, method), (kind, shape)) in enumerate(self.calls.items()):
            name = "/".join((root, *path)) + ("" if method == "__call__" else f".{method}")
            rows.append(Row(name, kind, shape, _size(self.trees[root], path), own[index]))
        return Table(
            rows=tuple(rows),
            params=sum(map(_size, self.trees.values())),
            flops=counts.total(),
            unbounded=any(UNBOUNDED in scopes for scopes in counts),
        )


def _size(params: Any, path: tuple[str, ...] = ()) -> int:
    for name in path:
        params = params.get(name, {})
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
