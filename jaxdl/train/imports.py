"""Which files of code a run imports, also those that are imported only later."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)"
    rb"|import[ \t]+([^\n#]+))",
    re.MULTILINE,
)
"""Statements are read, not run: a parser takes a hundred times as long."""


def reached(
    files: Iterable[Path], roots: Sequence[Path], but: frozenset[Path] = frozenset()
) -> set[Path]:
    """`files`, and what their import statements name below `roots` or beside them, and so on.

    None of `but`, and nothing through them.
    """
    found, tried = {file.resolve() for file in files}, set()
    todo = sorted(found)
    while todo:
        file = todo.pop()
        for folder, name in _named(file):
            places = {(p, name) for p in ([folder] if folder else [*roots, file.parent])} - tried
            new = {f for place in places for f in _modules(*place)} - found - but
            tried |= places
            found |= new
            todo += sorted(new)
    return found


def _named(file: Path) -> Iterator[tuple[Path | None, str]]:
    """Modules that a file may import, with the folder that a relative import starts in."""
    for dots, module, names, plain in IMPORT.findall(file.read_bytes()):
        if plain:
            yield from ((None, name) for name in _words(plain))
            continue
        folder = file.parents[len(dots) - 1] if dots and len(dots) <= len(file.parents) else None
        base = module.decode()
        for name in _words(names):
            yield folder, f"{base}.{name}".strip(".")


def _words(names: bytes) -> Iterator[str]:
    """The names of `a, b.c as d`; comments between them go."""
    for part in re.sub(rb"#[^\n]*", b"", names).strip(b"() \t\r\n").split(b","):
        if words := part.split():
            yield words[0].decode(errors="replace")


def _modules(root: Path, name: str) -> Iterator[Path]:
    """Files below `root` that importing `a.b.c` runs, where `c` may be no module."""
    place = root
    for part in name.split("."):
        if part == "*":
            return
        place = place / part
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file.resolve()
        if not place.is_dir():
            return
