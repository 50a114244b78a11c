"""Sizes of blocks by device kind: `blocks.json` beside each kernel, which `tune` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """What to take for one kernel, up to a size, on some kinds of devices."""

    platform: str
    """`cpu`, `gpu` or `tpu`."""
    kernel: str
    size: int
    """Of what blocks depend on most: a head, or the features."""
    devices: tuple[str, ...]
    """Patterns of what JAX calls the device; "*" is any that no other row is for."""
    blocks: Mapping[str, int]
    by: str
    """How they were chosen: `static cycles`, `time`, `compiled` or `shared memory`."""
    found: Mapping[str, Any]
    """What was measured, of how many candidates, when and with which versions."""

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Row:
        """Of what `line` writes."""
        return cls(**{**line, "devices": tuple(line["devices"])})

    def line(self) -> str:
        """In JSON."""
        return json.dumps(asdict(self))

    def fit(self, device: str) -> int:
        """How many letters of the device kind its best pattern tells; -1 where none is for it."""
        fits = (p for p in self.devices if fnmatchcase(device, p))
        return max((len(p.replace("*", "")) for p in fits), default=-1)

    @property
    def place(self) -> tuple[Any, ...]:
        """What no two rows of a table have in common."""
        return self.platform, self.kernel, self.size, self.devices


@dataclass(frozen=True)
class Table:
    """All rows of one operation."""

    rows: Sequence[Row]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Of a file."""
        return cls([Row.read(line) for line in json.loads(path.read_text())])

    def write(self, path: Path) -> None:
        """A row a line."""
        rows = sorted(self.rows, key=lambda row: row.place)
        path.write_text("[\n" + ",\n".join(row.line() for row in rows) + "\n]\n")

    def find(self, platform: str, kernel: str, device: str, size: int) -> Row:
        """The row made for most of the device's name, and of these for the least sufficient size,
        else the largest.
        """
        mine = [row for row in self.rows if (row.platform, row.kernel) == (platform, kernel)]
        best = max(row.fit(device) for row in mine)
        mine = sorted((row for row in mine if row.fit(device) == best), key=lambda row: row.size)
        return next((row for row in mine if row.size >= size), mine[-1])

    def with_row(self, new: Row) -> Table:
        """With one more, or another one in its place."""
        return Table([*(row for row in self.rows if row.place != new.place), new])


@cache
def table(path: Path) -> Table:
    """That of a file, read once."""
    return Table.read(path)
