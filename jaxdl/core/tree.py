"""Trees of parameters by '/'-joined paths: select, merge, mask. And dataclasses that are trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def dataclass(cls: type[T]) -> type[T]:
    """A frozen dataclass that jax takes apart, with `replace`.

    Every call of a jitted function takes its arguments apart and puts its results together; for
    nine fields this costs 5 microseconds less than `chex.dataclass` and 2 less than flax's.
    """
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    names = [field.name for field in dataclasses.fields(made)]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def flatten(node):
        values = vars(node)
        return [values[name] for name in names], None

    def flatten_with_keys(node):
        return list(zip(keys, flatten(node)[0], strict=True)), None

    def unflatten(_, leaves):
        node = object.__new__(made)
        vars(node).update(zip(names, leaves, strict=True))
        return node

    made.replace = dataclasses.replace
    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def path_of(keys: Iterable[Any]) -> str:
    """'/'-joined form of a `jax.tree_util` key path, e.g. `block/attention/query/kernel`."""
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, in the tree's order."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def matches(path: str, patterns: str | Iterable[str]) -> bool:
    """Whether `path` matches one of the fnmatch patterns; `*` crosses '/'."""
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def mask(tree: Any, patterns: str | Iterable[str]) -> Any:
    """A tree of bools: True where the leaf's path matches one of `patterns`."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: matches(path_of(keys), patterns), tree)


def select(tree: Mapping, pattern: str, prefix: str = "") -> dict:
    """The nested dict of the leaves that match `pattern`, without empty branches."""
    chosen = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            value = select(value, pattern, f"{path}/")
            if value:
                chosen[name] = value
        elif matches(path, pattern):
            chosen[name] = value
    return chosen


def merge(base: Mapping, over: Mapping) -> dict:
    """`base` with the leaves of `over` put over it; both are nested dicts."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def size(tree: Any) -> int:
    """The number of elements in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
