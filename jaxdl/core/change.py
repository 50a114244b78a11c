"""`change`: the one door through which ablations, `--set` and searches edit an experiment."""

from __future__ import annotations

import ast
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from inspect import Parameter
from typing import Any, get_origin

from jaxdl.core.annotations import annotation, fit, fits, item, options
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.names import resolve
from jaxdl.core.nodes import ABSENT, at, children, diff, field_names, flatten, is_record, rebuild
from jaxdl.core.part import Part, parameters

__all__ = ["ABSENT", "change", "diff", "flatten", "parse_edits"]

Names = tuple[str, ...]
WORDS = {"true": True, "false": False, "none": None, "inf": math.inf, "-inf": -math.inf}


def change(exp: Any, edits: Mapping[str, Any]) -> Any:
    """`exp` with new values at dotted paths: `{"model.depth": 6, "hooks.0.every": 10}`.

    All edits land at once, so that two fields that must agree may change together; where one path
    begins another, the shorter is applied first. Mappings take new keys, dataclasses do not.

    Raises: InputError with the path where a name is unknown, a type is wrong or the class objects.
    """
    paths = {tuple(path.split(".")): new for path, new in edits.items()}
    return _edit(exp, paths, type(exp).__name__, Any) if paths else exp


def parse_edits(texts: Iterable[str], exp: Any) -> dict[str, Any]:
    """What `["optim.peak_lr=1e-3", "model.norm=flax.linen:RMSNorm"]` spells as edits of `exp`.

    Values are Python literals, `true`, `false`, `none`, `inf`, or bare words; a `str` field takes
    its text as it stands, and one that holds a class or function takes `module:qualname`.

    Raises: InputError where '=' is missing, a path comes twice or a name cannot be resolved.
    """
    edits: dict[str, Any] = {}
    for edit in texts:
        path, sign, text = edit.partition("=")
        if not sign or not path.strip():
            raise InputError(f"{edit!r} is no edit; write path=value, like optim.peak_lr=1e-3.")
        path = path.strip()
        if path in edits:
            raise InputError(f"{path} is set twice; keep one.")
        with at(path):
            edits[path] = _parse(text, *_look(exp, path.split("."), Any))
    return edits


def _edit(value: Any, edits: Mapping[Names, Any], path: str, hint: Any) -> Any:
    groups: dict[str, dict[Names, Any]] = defaultdict(dict)
    for (name, *rest), new in edits.items():
        groups[name][tuple(rest)] = new
    parts, known = children(value) or {}, _settable(value)
    for name, group in groups.items():
        if name not in known and not (isinstance(value, Mapping) and () in group):
            raise InputError(_unknown(value, name, known, path))
        here, expected = f"{path}.{name}", _hint(value, name, hint)
        part = fit(group.pop(()), expected, here) if () in group else known[name]
        parts[name] = _edit(part, group, here, expected) if group else part
    with at(path):
        return rebuild(value, parts)


def _settable(value: Any) -> dict[str, Any]:
    """The children, and of a Part also the defaults it leaves alone."""
    parts = children(value) or {}
    if isinstance(value, Part):
        known = parameters(value.target) or {}
        names = field_names(value.target) if is_dataclass(value.target) else list(known)
        unset = {name: known[name].default for name in names if name in known}
        return {
            n: default for n, default in unset.items() if default is not Parameter.empty
        } | parts
    return parts


def _hint(value: Any, name: str, hint: Any) -> Any:
    if isinstance(value, Part):
        return annotation(value.target, name)
    return annotation(type(value), name) if is_record(value) else item(hint, value, name)


def _unknown(value: Any, name: str, known: Iterable[str], path: str) -> str:
    where = "" if path == type(value).__name__ else f"{path}: "
    if children(value) is None:
        wrap = f"; wrap it in Part({value.__name__}, ...)" if isinstance(value, type) else ""
        return f"{where}{value!r} has no field {name!r}{wrap}"
    kind = value.target.__qualname__ if isinstance(value, Part) else type(value).__name__
    return f"{where}{kind} has no field {name!r}; {suggest(name, known)}"


def _look(value: Any, names: list[str], hint: Any) -> tuple[Any, Any]:
    """What is at a path now and what may be there; a wrong path is for `change` to report."""
    if not names:
        return value, hint
    name, *rest = names
    known = _settable(value)
    if name not in known and not isinstance(value, Mapping):
        return None, Any
    return _look(known.get(name), rest, _hint(value, name, hint))


def _parse(text: str, current: Any, hint: Any) -> Any:
    if hint is str:
        return text
    if ":" in text and (_is_code(current) or any(map(_wants_code, options(hint)))):
        return resolve(text.strip())
    value = _literal(text.strip())
    return text if fits(text, hint) and not fits(value, hint) else value


def _is_code(value: Any) -> bool:
    return callable(value) and not is_record(value)


def _wants_code(hint: Any) -> bool:
    return hint in (type, Part) or get_origin(hint) in (type, Callable)


def _literal(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
