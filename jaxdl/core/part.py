"""Part: a class or function with some of its keywords filled in, as a value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxdl.core.errors import InputError, suggest
from jaxdl.core.names import home


@dataclass(frozen=True, init=False, repr=False)
class Part:
    """`Part(cls, a=1)(x, b=2)` is `cls(x, a=1, b=2)`; unlike a partial it compares and serialises.

    Raises: InputError where `target` is not at module level, or lacks a keyword.
    """

    target: Callable[..., Any]
    kw: Mapping[str, Any]

    def __init__(self, target: Callable[..., Any], /, **kw: Any):
        """Checks that the keywords exist; their values are checked by `target` itself."""
        home(target)
        known = parameters(target)
        for name in kw:
            if known is not None and name not in known:
                raise InputError(
                    f"{target.__qualname__} has no parameter {name!r}; {suggest(name, known)}"
                )
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "kw", MappingProxyType(kw))

    def __call__(self, /, *args: Any, **more: Any) -> Any:
        """`target(*args, ...)`; keywords given here win."""
        return self.target(*args, **{**self.kw, **more})

    def __hash__(self) -> int:
        """Hashable when the keywords' values are."""
        return hash((self.target, frozenset(self.kw.items())))

    def __repr__(self) -> str:
        """As it is written in an experiment."""
        kw = (f"{name}={value!r}" for name, value in self.kw.items())
        return f"Part({', '.join([self.target.__qualname__, *kw])})"

    def __reduce__(self) -> tuple:
        """For copies and worker processes: a read-only view does not pickle."""
        return _part, (self.target, dict(self.kw))


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The keywords `target` takes (a linen module's are its fields); None when it takes any."""
    try:
        found = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    kinds = {p.kind for p in found.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in found.items() if p.kind in by_name}


def _part(target: Callable[..., Any], kw: dict[str, Any]) -> Part:
    return Part(target, **kw)
