"""What a field's annotation asks of its value."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

from jaxdl.core.errors import InputError
from jaxdl.core.nodes import children, rebuild


def annotation(owner: Any, name: str) -> Any:
    """The type of a dataclass field or a function's parameter; Any where none can be read."""
    scopes: tuple[Any, ...]
    if not isinstance(owner, type):
        scopes = (inspect.unwrap(owner),)
    else:
        scopes = owner.__mro__ if is_dataclass(owner) else (owner.__init__,)
    for scope in scopes:
        try:
            notes = inspect.get_annotations(scope)
            if name in notes:
                # One at a time, so that an annotation only a type checker can read spoils no other.
                probe = SimpleNamespace(__annotations__={name: notes[name]})
                module = vars(sys.modules[scope.__module__])
                # The module goes last to win over the class, where a field may be called `data`.
                return get_type_hints(probe, dict(vars(scope)), module)[name]
        except Exception:
            return Any
    return Any


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def item(hint: Any, container: Any, key: str) -> Any:
    """What the hint of a mapping or tuple says about one item of it; Any where it says nothing."""
    for option in options(hint):
        origin, args = get_origin(option), get_args(option)
        if isinstance(container, Mapping) and len(args) == 2 and issubclass(origin, Mapping):
            return args[1]
        if type(container) is tuple and origin is tuple:
            if args[1:] == (...,):
                return args[0]
            return args[int(key)] if int(key) < len(args) else Any
    return Any


def fit(value: Any, hint: Any, path: str) -> Any:
    """`value` as `hint` asks for it: an int becomes the float that a float field wants.

    Raises: InputError with the path, the expected type and the value where it does not fit.
    """
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{path}: NaN is not a setting; give a number.")
    try:
        return _fit(value, hint)
    except TypeCheckError:
        kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
        expected = kind.replace("typing.", "").replace("collections.abc.", "")
        got = f"{value!r} ({type(value).__name__})"
        raise InputError(f"{path}: expected {expected}, got {got}.") from None


def fits(value: Any, hint: Any) -> bool:
    """Whether `fit` would take it."""
    try:
        _fit(value, hint)
    except TypeCheckError:
        return False
    return True


def _fit(value: Any, hint: Any) -> Any:
    # float last: in `int | float` an int stays an int.
    for option in sorted(options(hint), key=lambda option: option is float):
        try:
            return _fit_one(value, option)
        except TypeCheckError:
            continue
    raise TypeCheckError("no option fits")


def _fit_one(value: Any, hint: Any) -> Any:
    # typeguard takes True for an int and numpy scalars for a float; a configuration does not.
    if hint is float and type(value) is int:
        return float(value)
    if hint in (int, float) and type(value) is not hint:
        raise TypeCheckError("not a plain number")
    check_type(
        value,
        hint,
        forward_ref_policy=ForwardRefPolicy.IGNORE,
        collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
    )
    if type(value) is tuple or isinstance(value, Mapping):
        parts = {k: _fit(v, item(hint, value, k)) for k, v in (children(value) or {}).items()}
        return rebuild(value, parts)
    return value
