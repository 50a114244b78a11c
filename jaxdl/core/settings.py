"""An experiment's settings as one flat mapping, for what cannot show a tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PART = "jaxdl.core.part:Part"
Setting = str | int | float | bool
LEFT_OUT = ("hooks",)
"""They watch a run and are no part of what it computes."""


def settings(dumped: Mapping[str, Any]) -> dict[str, Setting]:
    """Every setting of an experiment in its JSON form by dotted path, classes by their name.

    `{"model": "MLP", "model.widths.0": 64, "optim": "AdamW", "optim.peak_lr": 0.001, ...}`
    """
    found: dict[str, Setting] = {}
    for name, value in dumped.items():
        if name != "$" and name not in LEFT_OUT:
            _flatten(value, name, found)
    return found


def _flatten(value: Any, path: str, found: dict[str, Setting]) -> None:
    if isinstance(value, list | tuple):
        parts = {str(i): part for i, part in enumerate(value)}
        if not parts:
            found[path] = "none"
    elif not isinstance(value, Mapping):
        found[path] = "none" if value is None else value
        return
    elif "$ref" in value:
        found[path] = _name(value["$ref"])
        return
    elif "$float" in value:
        found[path] = float(value["$float"])
        return
    elif value.get("$") == PART:
        found[path], parts = _name(value["target"]["$ref"]), value["kw"]
    else:
        if "$" in value:
            found[path] = _name(value["$"])
        parts = {name: part for name, part in value.items() if name != "$"}
    for name, part in parts.items():
        _flatten(part, f"{path}.{name}", found)


def _name(spelt: str) -> str:
    return spelt.rpartition(":")[2]
