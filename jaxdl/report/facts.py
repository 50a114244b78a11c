"""What runs were made of: their passports side by side, and their configurations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxdl.core.nodes import flatten
from jaxdl.report.comparison import Study
from jaxdl.report.runs import Run, differences

FIELDS = ("code", "versions", "data", "devices", "flags", "kernels")
FIRST = ("jaxdl", "python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy")
"""Packages that are listed before the others."""
LISTED = 16
"""Most entries of one field that are written out."""
HEX = re.compile(r"^[0-9a-f]{16,}$")
ENDS = r"\s:;,'\"()\[\]{}"
PLACE = re.compile(
    rf"""(?P<quote>['"])(?:/|~)[^'"]*(?P=quote)"""  # quoted, as it may hold spaces
    rf"""|(?:(?<![^=<{ENDS}])|(?<=-[A-Z]))(?:(?:file://)?/[\w.][^{ENDS}]*|~[a-z/.][^{ENDS}]*)"""
)
"""An absolute path: where things lie on one machine is nobody else's business."""
HIDDEN = "(a place)"


def passports(study: Study) -> Iterator[tuple[str, str, str]]:
    """What, its value, and which runs: facts that all share, then those in which they part."""
    runs = [run for run in study.runs if run.passport]
    apart: list[tuple[str, str, str]] = []
    for name in FIELDS:
        found = {id(run): _flat(getattr(run.passport, name)) for run in runs}
        keys = list(dict.fromkeys(key for facts in found.values() for key in facts))
        keys.sort(key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
        common = []
        for key in keys:
            values: dict[str, list[Run]] = {}
            for run in runs:
                values.setdefault(found[id(run)].get(key, "absent"), []).append(run)
            told = _apart(list(values))
            if len(values) == 1:
                common.append(f"{key} {told[0]}")
                continue
            for value, of in zip(told, values.values(), strict=True):
                apart.append((f"{name}.{key}", value, _who(study, of)))
        if common:
            yield name, _list(common), "all"
    yield from apart[: 4 * LISTED]
    if len(apart) > 4 * LISTED:
        yield "more", f"{len(apart) - 4 * LISTED} further values that differ", ""


def changes(study: Study) -> Iterator[tuple[str, str, str, str]]:
    """Variant, path, value in the base, value there: what the resolved configurations differ in."""
    base = next(iter(study.of(study.base)), None)
    for variant in study.variants:
        run = next(iter(study.of(variant)), None)
        if base is None or run is None or variant == study.base:
            continue
        for path, (before, after) in differences(base, run).items():
            yield variant, path.removesuffix(".class"), told(before), told(after)


def edits(study: Study) -> Iterator[tuple[str, str, str]]:
    """Variant, path, value: what the experiment file changes."""
    for variant in study.variants:
        for path, value in study.edits.get(variant, {}).items():
            yield variant, path, told(value)


def told(value: Any) -> str:
    """A value of a configuration in a cell of a table."""
    if isinstance(value, Mapping) and "class" in value:
        kind = str(value["class"]).rpartition(":")[2]
        return f"{kind}({', '.join(f'{k}={told(v)}' for k, v in value.items() if k != 'class')})"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(told, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return str(value.__qualname__)
    return value if isinstance(value, str) else repr(value)


def commands(study: Study) -> Iterator[tuple[str, str]]:
    """Variant, and what started its first run, without the place of the program."""
    for variant in study.variants:
        found = (r.passport for r in study.runs if r.passport and r.cell.variant == variant)
        for passport in list(found)[:1]:
            program, _, rest = passport.command.partition(" ")
            name = os.path.basename(program)
            name = "jaxdl" if name == "__main__.py" else name
            yield variant, f"{name} {unplaced(rest)}"


def unplaced(text: str) -> str:
    """`text` without absolute paths; of a file with a suffix the name is kept."""
    return PLACE.sub(lambda match: _named(match[0].strip("'\"")), text)


def _named(path: str) -> str:
    name = path.rpartition("/")[2]
    return f".../{name}" if "." in name.strip(".") else HIDDEN


def _apart(values: list[str]) -> list[str]:
    """How each of several values is told; those that would read alike are numbered."""
    told = [_short(value) for value in values]
    return [
        text if told.count(text) == 1 else f"{text} #{told[: i + 1].count(text)}"
        for i, text in enumerate(told)
    ]


def _flat(value: Any) -> dict[str, str]:
    value = tuple(value) if isinstance(value, list | tuple) else dict(value)
    found = {key: value for key, value in flatten(value).items() if key}
    return {k: "none" if value in (None, {}, ()) else str(value) for k, value in found.items()}


def _short(text: str) -> str:
    """Digests to 12 digits, and no paths."""
    return text[:12] if HEX.match(text) else unplaced(text)


def _list(common: list[str]) -> str:
    more = f" and {len(common) - LISTED} more" if len(common) > LISTED else ""
    return ", ".join(common[:LISTED]) + more


def _who(study: Study, runs: Iterable[Run]) -> str:
    """Variants all of whose runs are among `runs`, and the seeds of the others."""
    runs = list(runs)
    parts = []
    for variant in study.variants:
        mine = [r for r in study.runs if r.cell.variant == variant and r.passport]
        here = [r for r in mine if any(r is other for other in runs)]
        if here and len(here) == len(mine):
            parts.append(variant)
        elif here:
            seeds = ", ".join(str(run.cell.seed) for run in here)
            parts.append(f"{variant} (seed{'s' * (len(here) > 1)} {seeds})")
    return ", ".join(parts)
