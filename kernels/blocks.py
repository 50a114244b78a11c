"""Sizes of blocks by device kind: `blocks.json` beside each kernel, which `tune` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from jaxdl.core.files import write_whole


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
        """A row a line; a reader finds the old file or the new one."""
        rows = sorted(self.rows, key=lambda row: row.place)
        write_whole(path, "[\n" + ",\n".join(row.line() for row in rows) + "\n]\n")

    def find(self, platform: str, kernel: str, device: str, size: int) -> Row:
        """Of the rows for sizes that suffice, the one made for most of the device's name, and of
        these the least; where none suffices, of the largest.

        Raises:
            LookupError: no row of the kernel is for the device.
        """
        mine = [row for row in self.rows if (row.platform, row.kernel) == (platform, kernel)]
        mine = [row for row in mine if row.fit(device) >= 0]
        if not mine:
            raise LookupError(f"the table has no blocks of {kernel!r} for {platform} {device!r}")
        largest = max(row.size for row in mine)
        enough = [row for row in mine if row.size >= min(size, largest)]
        return min(enough, key=lambda row: (-row.fit(device), row.size))

    def with_row(self, new: Row) -> Table:
        """With one more, or another one in its place."""
        return Table([*(row for row in self.rows if row.place != new.place), new])


@cache
def table(path: Path) -> Table:
    """That of a file, read once."""
    return Table.read(path)
