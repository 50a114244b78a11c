"""Experiments as JSON and back, without loss: `load(dump(x)) == x`.

| value                    | JSON                                                       |
|--------------------------|------------------------------------------------------------|
| dataclass, linen module  | `{"$": "module:qualname", field: ...}`                     |
| Part                     | `{"$": "jaxdl.core.part:Part", "target": ..., "kw": {...}}` |
| class, function          | `{"$ref": "module:qualname"}`                              |
| tuple                    | list                                                       |
| mapping                  | object                                                     |
| infinity                 | `{"$float": "inf"}`                                        |
| str, int, float, bool, None | itself                                                  |
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from jaxdl.core.errors import InputError, suggest
from jaxdl.core.names import name_of, resolve
from jaxdl.core.nodes import at, children, is_record
from jaxdl.core.part import Part

PART = name_of(Part)
NOT_IN_DIGEST = ("steps", "hooks")


def dump(value: Any) -> Any:
    """`value` as JSON-able lists, dicts and scalars.

    Raises: InputError with the path and the remedy where something does not serialise.
    """
    return _dump(value, type(value).__name__)


def load(data: Any) -> Any:
    """The value that `dump` wrote; fields that are missing take their class's default.

    Raises: InputError with the path where a module, name or field is unknown.
    """
    named = isinstance(data, dict) and "$" in data
    return _load(data, str(data["$"]).rpartition(":")[2] if named else type(data).__name__)


def digest(exp: Any) -> str:
    """8 hex digits that name an experiment, whatever its `steps` and `hooks`."""
    kept = {name: part for name, part in dump(exp).items() if name not in NOT_IN_DIGEST}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _dump(value: Any, path: str) -> Any:
    if value is None or type(value) in (str, int, bool):
        return value
    if type(value) is float:
        return _dump_float(value, path)
    if isinstance(value, Part):
        kw = {name: _dump(part, f"{path}.{name}") for name, part in value.kw.items()}
        return {"$": PART, "target": _ref(value.target, path), "kw": kw}
    if is_record(value):
        return _dump_record(value, path)
    if type(value) is tuple:
        return [_dump(part, f"{path}.{i}") for i, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(k, path): _dump(part, f"{path}.{k}") for k, part in value.items()}
    if callable(value):
        return _ref(value, path)
    raise InputError(f"{path}: {_remedy(value)}")


def _dump_float(value: float, path: str) -> Any:
    if math.isnan(value):
        raise InputError(f"{path}: NaN is not a setting; give a number, or None.")
    return value if math.isfinite(value) else {"$float": str(value)}


def _dump_record(value: Any, path: str) -> dict[str, Any]:
    with at(path):
        record = {"$": name_of(type(value))}
    defaults = {f.name: f.default for f in fields(value)}
    for name, part in (children(value) or {}).items():
        try:
            record[name] = _dump(part, f"{path}.{name}")
        except InputError:
            # Left out, the class puts it back: flax's own default initializers are closures.
            if part is not defaults[name]:
                raise
    return record


def _ref(value: Any, path: str) -> dict[str, str]:
    with at(path):
        return {"$ref": name_of(value)}


def _key(key: Any, path: str) -> str:
    if type(key) is not str or key.startswith("$"):
        raise InputError(f"{path}: key {key!r} must be a str that does not start with '$'.")
    return key


def _remedy(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, list):
        return f"{value!r} is a list, which can change; use a tuple."
    if isinstance(value, np.generic):
        return f"{value!r} is a numpy scalar; use {type(value.item()).__name__}(...)."
    return (
        f"a {kind} does not serialise; use plain values, tuples, mappings, frozen dataclasses, "
        "functions at module level, or wrap it in Part(cls, ...)."
    )


def _load(data: Any, path: str) -> Any:
    if isinstance(data, list):
        return tuple(_load(part, f"{path}.{i}") for i, part in enumerate(data))
    if not isinstance(data, dict):
        return data
    with at(path):
        if "$ref" in data:
            return resolve(str(data["$ref"]))
        if "$float" in data:
            return float(data["$float"])
        cls = resolve(str(data["$"])) if "$" in data else dict
    parts = {_key(k, path): _load(v, f"{path}.{k}") for k, v in data.items() if k != "$"}
    return cls(**parts) if cls is dict else _construct(cls, parts, path)


def _construct(cls: Any, parts: dict[str, Any], path: str) -> Any:
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise InputError(f"{path}: {cls!r} is not a dataclass.")
    names = [f.name for f in fields(cls) if f.init]
    for name in parts:
        if name not in names:
            raise InputError(
                f"{path}: {cls.__name__} has no field {name!r}; {suggest(name, names)}"
            )
    with at(path):
        try:
            return Part(parts["target"], **parts["kw"]) if cls is Part else cls(**parts)
        except (KeyError, TypeError) as error:
            raise InputError(f"{cls.__name__} cannot be built: {error}") from error
