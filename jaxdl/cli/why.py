"""`jaxdl why`."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxdl.cli import screen
from jaxdl.cli.rerun import Reruns
from jaxdl.core.errors import InputError
from jaxdl.core.records import read_records
from jaxdl.report.bisect import Tried, Verdict
from jaxdl.report.bisect import bisect as run_bisect
from jaxdl.report.differences import Difference
from jaxdl.report.why import Explanation, explain

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
NARROW = 44
"""Characters that a and b may take together on one line."""
INDENT = 15
"""Columns before what a and b say on lines of their own."""
SHOWN = 5
"""Metrics of the record in which two runs part."""
WHEN = {
    "start": "the loss of the first update already, so before any parameter moved",
    "later": "after updates that were the same",
    "evaluation": "all that was recorded of training is the same",
    "unknown": "in the first record that both have, or in an update before it",
}
CHANCE = (
    "Nothing that is recorded differs. What is left is chance: operations in no fixed order, a "
    "library changed in place, or what the code reads without being told."
)
EFFECTS = {
    "cause": "gives b's numbers",
    "part": "moves the numbers, but not to b's",
    "none": "changes nothing",
    "failed": "cannot be run",
}


def why(a: Run, b: Run, bisect: screen.Flag = False, json: screen.Flag = False) -> int:
    """Explain why two runs differ: what is not the same, and where their numbers part.

    Example: jaxdl why runs/quickstart/base-1a2b3c4d runs/quickstart/base-5e6f7a8b

    What may be the cause is listed likeliest first: whatever fits where the numbers part, before
    what would have parted them elsewhere.

    Args:
        a: run directory.
        b: another.
        bisect: train a again up to where they part, with one thing of b's at a time, until the
            cause is named. Packages, data and devices stay those that are here.
        json: print one JSON object.
    """
    if a.resolve() == b.resolve():
        raise InputError(f"both are {a}; name two runs.")
    with _orderly():
        found = explain(a, b)
        if not json:
            print_explanation(found)
        verdict = _bisected(found, quiet=json) if bisect else None
    if json:
        screen.print_json(as_json(found) | (_found(verdict) if verdict else {}))
    return 0


@contextmanager
def _orderly() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise inside the block, so that a re-run ends and temporary folders go.

    Nothing is traced here that could swallow the exception.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        signals = ()
    before = {s: signal.signal(s, lambda number, _: sys.exit(128 + number)) for s in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bisected(found: Explanation, quiet: bool) -> Verdict:
    """The verdict of re-runs, told as they end."""

    def say(tried: Tried) -> None:
        if not quiet:
            names = ", ".join(_name(d) for d in tried.differences)
            print(f"  {names}: {EFFECTS[tried.effect]}{tried.told and f' ({tried.told})'}")

    if not quiet:
        print("\nRe-runs of a, each with this of b's:")
    with Reruns(found.a, found.b) as rerun:
        verdict = run_bisect(found, rerun, say)
    if not quiet:
        cause = ", ".join(_name(d) for d in verdict.cause)
        print(f"\nCause: {cause or 'not found'} ({verdict.told}).")
    return verdict


def _found(verdict: Verdict) -> dict[str, Any]:
    return {
        "cause": [_entry(d) for d in verdict.cause],
        "told": verdict.told,
        "tried": [
            {"differences": [_entry(d) for d in t.differences], "effect": t.effect, "told": t.told}
            for t in verdict.tried
        ],
        "untried": [_entry(d) for d in verdict.untried],
    }


def _name(d: Difference) -> str:
    return d.name if d.kind == d.name else f"{d.kind} {d.name}"


def as_json(found: Explanation) -> dict[str, Any]:
    """For other programs."""
    parting = found.parting
    return {
        "a": str(found.a),
        "b": str(found.b),
        "same": not found.likely and parting is None,
        "compared": found.comparison.compared,
        "parting": parting and asdict(parting) | {"metric": parting.metric},
        "likely": [_entry(d) for d in found.likely],
        "idle": [_entry(d) for d in found.idle],
    }


def print_explanation(found: Explanation) -> None:
    """For a person."""
    print(f"a  {found.a}\nb  {found.b}\n")
    print(told(found))
    if found.likely:
        print(f"\n{_heading(found)}")
        _print(found.likely)
    elif found.parting:
        print("", *_filled(CHANCE), sep="\n")
    else:
        print(f"\nThe same in everything {'that moves numbers' if found.idle else 'recorded'}.")
    if found.idle:
        print("\nDiffers, and moves no number:")
        _print(_folded(found.idle))


def told(found: Explanation) -> str:
    """Where the numbers part, in a few lines."""
    parting, comparison = found.parting, found.comparison
    if parting is None and comparison.compared:
        same = f"{comparison.compared} records, to step {comparison.last}"
        return f"The numbers are the same in {same}."
    if parting is None:
        runs = {"a": found.a, "b": found.b}
        empty = " and ".join(name for name, run in runs.items() if not any(read_records(run)))
        if empty:
            return f"There are no numbers of {empty}."
        return "No record of the one covers the same updates as one of the other."
    when = WHEN[parting.when] if set(parting.values) != {"lr"} else "by the rate, before any loss"
    values = list(parting.values.items())
    rows = [(f"  {parting.split}/{name}", *_numbers(*pair)) for name, pair in values[:SHOWN]]
    grid = [("", "a", "b", "b - a"), *rows]
    first, *others = (max(map(len, column)) for column in zip(*grid, strict=True))
    lines = _filled(f"The numbers part at step {parting.step}: {when}.")
    for name, *cells in grid:
        cells = [f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True)]
        lines.append("  ".join([f"{name:<{first}}", *cells]))
    if len(values) > SHOWN:
        lines.append(f"  and {len(values) - SHOWN} more")
    return "\n".join(lines)


def _numbers(a: float, b: float) -> tuple[str, str, str]:
    return f"{a:.9g}", f"{b:.9g}", f"{b - a:+.2g}"


def _heading(found: Explanation) -> str:
    if found.parting is None and found.comparison.compared:
        return "What differs has not moved what was recorded:"
    one = len(found.likely) == 1
    return "What differs:" if one else "What differs, likeliest cause first:"


def _folded(idle: Sequence[Difference]) -> list[Difference]:
    """The same with files of code that no training imports on one line."""
    files = [d for d in idle if d.kind == "code"]
    others = [d for d in idle if d.kind != "code"]
    if len(files) > 1:
        told = f"{len(files)} files of commands and reports, or in comments only"
        files = [Difference("code", told, "", "")]
    return [*files, *others]


def _print(found: Sequence[Difference]) -> None:
    """What is in a and in b, on one line where there is room."""
    for d in found:
        head = f"  {d.kind:<12} {d.name}"
        if len(d.a) + len(d.b) > NARROW:
            print(head, *_indented("a", d.a), *_indented("b", d.b), sep="\n")
        else:
            print(f"{head}   {d.a} -> {d.b}" if d.b else f"{head}   {d.a}".rstrip())


def _indented(side: str, text: str) -> list[str]:
    """What one side says, on lines of its own."""
    before = f"{'':{INDENT}}{side}  "
    return _filled(text, before) or [before.rstrip()]


def _filled(text: str, before: str = "") -> list[str]:
    """Lines no wider than the screen; `before` begins the first, and the others are below it."""
    width, after = shutil.get_terminal_size().columns, " " * len(before)
    indents = {"initial_indent": before, "subsequent_indent": after}
    return textwrap.wrap(text, width, break_on_hyphens=False, **indents)


def _entry(d: Difference) -> dict[str, str]:
    return {"kind": d.kind, "name": d.name, "a": d.a, "b": d.b}
