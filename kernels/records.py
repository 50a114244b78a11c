"""Lines of the files in `results` that tell what the compilers say of hardware that is absent."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

NAMES = "op", "case", "target", "direction", "impl", "blocks"
"""What tells a program from all others."""


def of(
    op: str,
    case: str,
    target: str,
    direction: str,
    impl: str,
    blocks: Sequence[int] | None,
    cycles: int | None,
) -> dict[str, Any]:
    """What is known of a program on an absent TPU; None cycles where it fails."""
    given = op, case, target, direction, impl, list(blocks) if blocks else None
    return dict(zip(NAMES, given, strict=True)) | {
        "cycles": cycles,
        "hardware": "none: compiled for an absent TPU",
        "versions": {name: version(name) for name in ("jax", "libtpu")},
        "date": datetime.date.today().isoformat(),
    }


def add(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record into a file of results, in place of what it says of the same program."""
    lines = path.read_text().splitlines() if path.exists() else []
    known = {_program(json.loads(line)): line for line in lines}
    known[_program(record)] = json.dumps(record)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(known.values()) + "\n")


def _program(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(record[name]) for name in NAMES)
