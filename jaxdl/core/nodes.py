"""The one place that opens a configuration value and builds it again from its children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.core.part import Part


class _Absent:
    """The type of ABSENT."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
"""Stands in `diff` for what one side does not have."""


@contextmanager
def at(path: str) -> Iterator[None]:
    """Puts `path` in front of the message of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def is_record(value: Any) -> bool:
    """Whether `value` is a dataclass instance with fields of its own, which a Part is not."""
    return is_dataclass(value) and not isinstance(value, type | Part)


def field_names(cls: Any) -> list[str]:
    """The constructor's fields of a dataclass, without the two that linen adds."""
    linen = ("parent", "name") if _is_linen(cls) else ()
    return [f.name for f in fields(cls) if f.init and f.name not in linen]


def children(value: Any) -> dict[str, Any] | None:
    """The parts of a dataclass, Part, mapping or tuple (`"0"`, `"1"` ...); None for a leaf."""
    if isinstance(value, Part):
        return dict(value.kw)
    if is_record(value):
        names = field_names(type(value))
        if _is_linen(type(value)) and value.name is not None:
            names.append("name")  # given by hand, it is part of the parameters' paths
        return {name: getattr(value, name) for name in names}
    if isinstance(value, Mapping):
        return dict(value)
    if type(value) is tuple:
        return {str(i): item for i, item in enumerate(value)}
    return None


def rebuild(value: Any, parts: Mapping[str, Any]) -> Any:
    """A value of the same kind as `value`, made of other children."""
    if isinstance(value, Part):
        return Part(value.target, **parts)
    kind: Any = type(value)
    if is_record(value):
        return kind(**parts)
    if isinstance(value, Mapping):
        return kind(parts)
    return tuple(parts.values())


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its dotted path; an empty mapping, tuple or Part is a leaf."""
    parts = children(value)
    if not parts:
        return {path: value}
    return {
        k: v for name, part in parts.items() for k, v in flatten(part, _join(path, name)).items()
    }


def diff(a: Any, b: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two configurations differ, as `(in a, in b)`; ABSENT where one has nothing there."""
    in_a, in_b = children(a), children(b)
    if in_a is None or in_b is None or _kind(a) != _kind(b):
        return {} if _kind(a) == _kind(b) and a == b else {path: (a, b)}
    found = {}
    for name in in_a | in_b:
        found |= diff(in_a.get(name, ABSENT), in_b.get(name, ABSENT), _join(path, name))
    return found


def _is_linen(cls: type) -> bool:
    # By name, because this package does not import flax.
    return any((c.__module__, c.__name__) == ("flax.linen.module", "Module") for c in cls.__mro__)


def _kind(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Mapping
    return (Part, value.target) if isinstance(value, Part) else type(value)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)
