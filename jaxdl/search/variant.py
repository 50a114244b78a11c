"""A trial as an experiment file: the sweep's experiment with the trial's edits."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdl.core.change import change, parse_edits
from jaxdl.core.codec import dump
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.files import write_whole
from jaxdl.core.names import name_of

FILE = '''"""{title}

Run:    jaxdl train {place}
"""

from pathlib import Path

from jaxdl.core import Experiment, change, load, load_experiment

BASE = Path(__file__).parent / {base!r}
SETS = {sets!r}
EDITS = {{
{edits}}}


def base() -> Experiment:
    """{spec} with the edits."""
    exp, _ = load_experiment(f"{{BASE}}{variant}", SETS)
    return change(exp, {{path: load(value) for path, value in EDITS.items()}})
'''


def write_variant(
    file: Path, spec: str, sets: Sequence[str], edits: Mapping[str, Any], title: str
) -> None:
    """Writes an experiment file whose base() is that of `spec` (`file.py[:variant]`), edited by
    `sets` and then by `edits`."""
    path, _, variant = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    lines = [f"    {path!r}: {dump(value)!r},\n" for path, value in edits.items()]
    text = FILE.format(
        title=title.replace("\\", "/").replace('"', "'"),
        place=file,
        base=Path(os.path.relpath(path, file.parent)).as_posix(),
        sets=tuple(sets),
        edits="".join(lines),
        spec=spec,
        variant=f":{variant}" if variant else "",
    )
    write_whole(file, text)


def spelt(exp: Experiment, edits: Mapping[str, Any]) -> list[str] | None:
    """The edits as `path=value` of `--set`; None where a value cannot be spelt there."""
    texts = [f"{path}={_text(value)}" for path, value in edits.items()]
    try:
        same = change(exp, parse_edits(texts, exp)) == change(exp, edits)
    except InputError:
        return None
    return texts if same else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        try:
            return name_of(value) if callable(value) else repr(value)
        except InputError:
            return repr(value)
    return repr(value)
