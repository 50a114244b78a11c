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
from jaxdl.core.names import resolve, short_name_of
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
    its text as it stands, one that holds a class or function takes `module:qualname`, and one that
    holds a dataclass takes the same for an instance with the class's defaults.

    Raises: InputError where '=' is missing, a path comes twice or a name cannot be resolved.
    """
    spelt: dict[str, str] = {}
    for edit in texts:
        path, sign, text = edit.partition("=")
        path = path.strip()
        if not sign or not path:
            raise InputError(f"{edit!r} is no edit; write path=value, like optim.peak_lr=1e-3.")
        if path in spelt:
            raise InputError(f"{path} is set twice; keep one.")
        spelt[path] = text
    edits: dict[str, Any] = {}
    for path in sorted(spelt, key=lambda path: path.count(".")):  # as `change` applies them
        with at(path):
            edits[path] = _parse(spelt[path], *_look(exp, path, edits))
    return edits


def _edit(value: Any, edits: Mapping[Names, Any], path: str, hint: Any) -> Any:
    groups: dict[str, dict[Names, Any]] = defaultdict(dict)
    for (name, *rest), new in edits.items():
        groups[name][tuple(rest)] = new
    parts, known = children(value) or {}, _settable(value)
    for name, group in groups.items():
        if name not in known and not (isinstance(value, Mapping) and () in group):
            raise InputError(_unknown(value, name, known, path, hint))
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


def _unknown(value: Any, name: str, known: Iterable[str], path: str, hint: Any) -> str:
    where = "" if path == type(value).__name__ else f"{path}: "
    if value is None and (classes := _records(hint)):
        first = " or ".join(f"{path.partition('.')[2]}={short_name_of(cls)}" for cls in classes)
        return f"{where}None has no field {name!r}; set {first} first"
    if children(value) is None:
        wrap = f"; wrap it in Part({value.__name__}, ...)" if isinstance(value, type) else ""
        return f"{where}{value!r} has no field {name!r}{wrap}"
    kind = value.target.__qualname__ if isinstance(value, Part) else type(value).__name__
    return f"{where}{kind} has no field {name!r}; {suggest(name, known)}"


def _look(exp: Any, path: str, edits: Mapping[str, Any]) -> tuple[Any, Any]:
    """What is at a path after `edits` and what may be; a wrong path is for `change` to report."""
    value, hint, here = exp, Any, ""
    for name in path.split("."):
        known = _settable(value)
        if name not in known and not isinstance(value, Mapping):
            return None, Any
        here = f"{here}.{name}" if here else name
        value, hint = edits.get(here, known.get(name)), _hint(value, name, hint)
    return value, hint


def _parse(text: str, current: Any, hint: Any) -> Any:
    if hint is str:
        return text
    if ":" in text and (_is_code(current) or any(map(_wants_code, options(hint)))):
        return resolve(text.strip())
    if ":" in text and hint is Any and is_record(current):  # a part for a part: optim, data, task
        return _make(text.strip(), (object,))
    value = _literal(text.strip())
    if not fits(value, hint):
        if fits(text, hint):
            return text
        if classes := _records(hint):
            return _make(text.strip(), classes)
    return value


def _make(text: str, classes: tuple[type, ...]) -> Any:
    """The dataclass that `text` names, with its defaults."""
    fitting = " or ".join(map(short_name_of, classes))
    cls = resolve(text) if ":" in text else None
    if not (isinstance(cls, type) and issubclass(cls, classes)):
        raise InputError(f"{text!r} does not fit; expected {fitting}, or a subclass.")
    try:
        return cls()
    except TypeError as error:
        raise InputError(f"{text} has not only defaults ({error}); set it in the file.") from error


def _records(hint: Any) -> tuple[type, ...]:
    """The dataclasses that may stand there."""
    return tuple(
        option
        for option in options(hint)
        if isinstance(option, type) and is_dataclass(option) and option is not Part
    )


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
