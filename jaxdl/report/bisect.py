"""The cause of a parting, by trial: run a again with one thing of b's at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxdl.core.records import Passport, Record, Result, read_passport, read_records, read_result
from jaxdl.report.differences import ABSENT, Difference
from jaxdl.report.parting import compare
from jaxdl.report.why import Explanation

APPLICABLE = ("config", "seed", "environment", "code")
"""Kinds of differences that a re-run can take from b."""
FILES = 8
"""Files that are tried one by one, once all of them together were the cause."""
Effect = Literal["cause", "part", "none", "failed"]


@dataclass(frozen=True)
class Trial:
    """Run a, with some of b's ways."""

    experiment: Any
    """In its JSON form."""
    flags: Mapping[str, str]
    files: frozenset[tuple[str, str]] = frozenset()
    """Place and name of the files of code that are b's."""


@dataclass(frozen=True)
class Outcome:
    """What a re-run left, or why it failed."""

    records: Sequence[Record] = ()
    result: Result | None = None
    failed: str = ""


Rerun = Callable[[Trial, int], Outcome]
"""Trains a trial up to some step."""


@dataclass(frozen=True)
class Tried:
    """One re-run."""

    differences: tuple[Difference, ...]
    effect: Effect
    """`cause`: alone it gives b's numbers; `part`: it moves a's, but not to b's."""
    told: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the re-runs showed."""

    cause: tuple[Difference, ...] = ()
    told: str = ""
    tried: tuple[Tried, ...] = field(default=())
    untried: tuple[Difference, ...] = ()


def bisect(found: Explanation, rerun: Rerun, say: Callable[[Tried], None]) -> Verdict:
    """Names the cause, trying the likeliest first; `say` hears of every trial."""
    if found.parting is None:
        return Verdict(told="the numbers do not part, so there is nothing to find")
    judge = _Judge(found, rerun)
    if problem := judge.control():
        return Verdict(told=problem, untried=found.likely)
    units, untried = _units(found.likely)
    tried: list[Tried] = []
    for unit in units:
        tried.append(judge(unit))
        say(tried[-1])
        if tried[-1].effect == "cause":
            cause, more = _narrowed(unit, judge, say)
            return Verdict(cause, "alone it gives b's numbers", (*tried, *more), untried)
    return _conclusion(judge, tried, untried, say)


class _Judge:
    """Runs trials and compares them with both runs, up to where those part."""

    def __init__(self, found: Explanation, rerun: Rerun):
        assert found.parting is not None
        self._rerun, self._passport = rerun, read_passport(found.a)
        self._a, self._b = (
            (list(read_records(run)), read_result(run)) for run in (found.a, found.b)
        )
        whole = _whole(found)
        self._until = None if whole else found.parting.step
        self._step = self._passport.experiment["steps"] if whole else found.parting.step

    def control(self) -> str:
        """Why run a cannot be judged by re-runs; "" where it repeats itself."""
        outcome = self._rerun(_trial(self._passport, ()), self._step)
        if outcome.failed:
            return f"a cannot be run again here: {outcome.failed}"
        if self._same(outcome, self._a):
            return ""
        return (
            "a does not repeat itself here, so re-runs show nothing; its code, data, versions or "
            "devices are not here, or its operations are in no fixed order"
        )

    def __call__(self, differences: tuple[Difference, ...]) -> Tried:
        outcome = self._rerun(_trial(self._passport, differences), self._step)
        if outcome.failed:
            return Tried(differences, "failed", outcome.failed)
        if self._same(outcome, self._b):
            return Tried(differences, "cause")
        return Tried(differences, "none" if self._same(outcome, self._a) else "part")

    def _same(self, outcome: Outcome, side: tuple[list[Record], Result | None]) -> bool:
        records, result = side
        ends = (outcome.result, result)
        found = compare(outcome.records, records, ends, self._until)
        return found.parting is None and (found.compared > 0 or self._until is None)


def _whole(found: Explanation) -> bool:
    """Whether the runs part only when they are evaluated at the end."""
    a, b = read_records(found.a), read_records(found.b)
    return compare(a, b).parting is None


def _units(
    likely: Sequence[Difference],
) -> tuple[list[tuple[Difference, ...]], tuple[Difference, ...]]:
    """What is tried at once, in order: all code together, everything else alone."""
    files = tuple(d for d in likely if d.kind == "code")
    files = files if all(d.path for d in files) else ()
    units: list[tuple[Difference, ...]] = []
    for d in likely:
        unit = files if d.kind == "code" else (d,)
        if d.kind in APPLICABLE and unit and unit not in units:
            units.append(unit)
    known = {id(d) for unit in units for d in unit}
    return units, tuple(d for d in likely if id(d) not in known)


def _narrowed(
    unit: tuple[Difference, ...], judge: _Judge, say: Callable[[Tried], None]
) -> tuple[tuple[Difference, ...], list[Tried]]:
    """The one file among several that is the cause alone, where there is one."""
    tried = []
    for d in unit if 1 < len(unit) <= FILES else ():
        tried.append(judge((d,)))
        say(tried[-1])
        if tried[-1].effect == "cause":
            return (d,), tried
    return unit, tried


def _conclusion(
    judge: _Judge,
    tried: list[Tried],
    untried: tuple[Difference, ...],
    say: Callable[[Tried], None],
) -> Verdict:
    """What is left where nothing is the cause alone."""
    left = (*(d for t in tried if t.effect == "failed" for d in t.differences), *untried)
    moving = tuple(d for t in tried if t.effect in ("part", "failed") for d in t.differences)
    if len(moving) > 1:
        tried.append(judge(moving))
        say(tried[-1])
        if tried[-1].effect == "cause":
            return Verdict(moving, "together they give b's numbers", tuple(tried), untried)
    if left and all(t.effect != "part" for t in tried):
        what = "it is" if len(left) == 1 else "one of these is"
        told = f"by elimination {what} the cause; a re-run cannot take it from b"
        return Verdict(left, told, tuple(tried), untried)
    told = "what was tried does not explain b's numbers" + ", and not all could be" * bool(untried)
    return Verdict((), told, tuple(tried), untried)


def _trial(passport: Passport, differences: Sequence[Difference]) -> Trial:
    experiment = copy.deepcopy(passport.experiment)
    trial = Trial(experiment, dict(passport.flags))
    there = (d for d in differences if d.value is not ABSENT)
    gone = sorted((d for d in differences if d.value is ABSENT), key=_place, reverse=True)
    for d in (*there, *gone):  # lists shrink from their end, so the numbers of entries hold
        if d.kind in ("config", "seed"):
            _put(experiment, d.path, d.value)
        elif d.kind == "environment":
            flags = {k: v for k, v in trial.flags.items() if k != d.name}
            more = {} if d.value is ABSENT else {d.name: d.value}
            trial = replace(trial, flags=flags | more)
        elif d.kind == "code":
            place, name = d.path
            trial = replace(trial, files=trial.files | {(place, name)})
    return trial


def _place(d: Difference) -> list[tuple[int, str]]:
    """Orders paths, entries of lists by number."""
    return [(int(name) if name.isdigit() else 0, name) for name in d.path]


def _put(experiment: Any, path: tuple[str, ...], value: Any) -> None:
    """Sets what b has at `path`; a part that b lacks goes."""
    *above, last = path
    for name in above:
        experiment = experiment[int(name)] if isinstance(experiment, list) else experiment[name]
    if isinstance(experiment, list):
        i = int(last)
        experiment[i : i + 1] = [] if value is ABSENT else [value]
    elif value is ABSENT:
        experiment.pop(last, None)
    else:
        experiment[last] = value
