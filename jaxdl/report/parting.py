"""Where the numbers of two runs part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxdl.core.records import Record, Result

SPLITS = ("train", "valid", "test")
"""What is compared, in this order; `perf` rates the machine."""
When = Literal["start", "later", "evaluation", "unknown"]


@dataclass(frozen=True)
class Parting:
    """The first record in which two runs differ."""

    step: int
    split: str
    values: Mapping[str, tuple[float, float]]
    """The metrics that differ there, in a and in b; losses first."""
    when: When
    """`start`: the first update already; `later`: after updates that were the same; `evaluation`:
    all of training is the same; `unknown`: by the first record, which covers many updates."""

    @property
    def metric(self) -> str:
        """The one to name."""
        return next(iter(self.values))


@dataclass(frozen=True)
class Comparison:
    """Two runs' numbers side by side."""

    parting: Parting | None
    compared: int
    """Records that could be compared."""
    last: int
    """The last step among them."""


def compare(
    a: Iterable[Record],
    b: Iterable[Record],
    ends: tuple[Result | None, Result | None] = (None, None),
    until: int | None = None,
) -> Comparison:
    """The records of two runs step by step, up to step `until`; then how they ended.

    A record of training tells of the updates since the one before, so only those that cover the
    same updates are compared.
    """
    left, right = _by_place(a, until), _by_place(b, until)
    places = sorted(left.keys() & right.keys(), key=lambda p: (p[1], SPLITS.index(p[0])))
    parting, same = None, False
    for split, step, since in places:
        values = _differing(left[split, step, since], right[split, step, since])
        if values:
            first = split == "train" and step == 1 and set(values) != {"lr"}
            when = "start" if first else "later" if same or step == 1 else "unknown"
            parting = Parting(step, split, values, when)
            break
        same = same or split == "train"
    if parting and parting.split != "train" and _training_is_same(left, right):
        parting = Parting(parting.step, parting.split, parting.values, "evaluation")
    if parting is None and until is None:
        parting = _at_the_end(*ends)
    return Comparison(parting, len(places), max((step for _, step, _ in places), default=0))


Place = tuple[str, int, int]


def _by_place(records: Iterable[Record], until: int | None) -> dict[Place, Mapping[str, float]]:
    found, before = {}, dict.fromkeys(SPLITS, 0)
    for record in records:
        if record.split not in SPLITS or (until is not None and record.step > until):
            continue
        since = before[record.split] if record.split == "train" else 0
        found[record.split, record.step, since] = record.values
        before[record.split] = record.step
    return found


def _training_is_same(left: Mapping, right: Mapping) -> bool:
    shared = [place for place in left.keys() & right.keys() if place[0] == "train"]
    return bool(shared) and not any(_differing(left[p], right[p]) for p in shared)


def _at_the_end(a: Result | None, b: Result | None) -> Parting | None:
    if a is None or b is None or a.steps != b.steps:
        return None
    for split in SPLITS:
        values = _differing(a.metrics.get(split, {}), b.metrics.get(split, {}))
        if values:
            return Parting(a.steps, split, values, "evaluation")
    return None


def _differing(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    names = sorted(a.keys() & b.keys(), key=lambda name: ("loss" not in name, name))
    return {name: (a[name], b[name]) for name in names if not _equal(a[name], b[name])}


def _equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
