"""Lines of the files in `results` that tell what the compilers say of hardware that is absent."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdl.core.files import write_whole
from jaxdl.core.packages import versions_of

NAMES = "op", "case", "target", "direction", "impl", "blocks"
"""What tells a program from all others."""


def command(doc: str, found: Callable[[str], Iterator[Mapping[str, Any]]], only: str) -> None:
    """Prints `found(beginning)`, a JSON object a line, and writes them where that is asked for.

    Args:
        doc: says in its first line what is found.
        found: what is known of all programs whose names begin so.
        only: what these names are, in words.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--write", type=Path, help="a result file")
    parser.add_argument("--only", default="", help=f"{only}, or a beginning of it")
    given = parser.parse_args()
    for record in found(given.only):
        print(json.dumps(record), flush=True)
        if given.write:
            add(given.write, record)


def of(
    op: str,
    case: str,
    target: str,
    direction: str,
    *,
    impl: str = "ours",
    blocks: Sequence[int] | None = None,
    absent: str,
    versions: Mapping[str, str],
    **known: Any,
) -> dict[str, Any]:
    """What is `known` of a program, of which an `absent` device's compilers have told."""
    given = op, case, target, direction, impl, list(blocks) if blocks else None
    return dict(zip(NAMES, given, strict=True)) | {
        **known,
        "hardware": f"none: compiled for an absent {absent}",
        "versions": dict(versions),
        "date": datetime.date.today().isoformat(),
    }


def cycles(*place: str, cycles: int | None, **program: Any) -> dict[str, Any]:
    """The same on a TPU; None where there is no estimate."""
    versions = versions_of(("jax", "libtpu"))
    return of(*place, **program, absent="TPU", versions=versions, cycles=cycles)


def add(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record into a file of results, in place of what it says of the same program."""
    lines = path.read_text().splitlines() if path.exists() else []
    known = {_program(json.loads(line)): line for line in lines}
    known[_program(record)] = json.dumps(record)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, "\n".join(known.values()) + "\n")


def _program(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(record[name]) for name in NAMES)
