"""What a compiled program says between devices, read from its HLO text.

The bytes of a collective are those that one device sends when it runs as a ring, whatever the
hardware does: of a tensor of R bytes over n devices an all-gather (R gathered), a reduce-scatter
(R before it) and an all-to-all send R (n-1)/n, an all-reduce twice that, a permutation R.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxdl.plan import replicas

KINDS = {
    "all-reduce": lambda size, n: 2 * size * (n - 1) // n,
    "all-gather": lambda size, n: size * (n - 1) // n,
    "reduce-scatter": lambda size, n: size * (n - 1),
    "all-to-all": lambda size, n: size * (n - 1) // n,
    "ragged-all-to-all": lambda size, n: size * (n - 1) // n,
    "collective-permute": lambda size, n: size,
    "collective-broadcast": lambda size, n: size,
}
"""What a device sends, from the bytes of its result and the size of the group."""
LIBRARIES = ("/site-packages/", "/jaxdl/parallel/")
"""Files that hold no line of a model."""

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$", re.M)
COLLECTIVE = re.compile(rf" = (?P<shape>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
WHILE = re.compile(r" while\(.* condition=%?([\w.-]+), body=%?([\w.-]+)")
CALLS = re.compile(r"(?:calls|to_apply|branch_computations|\w+_computation)=(\{[^}]*\}|%?[\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
BOUND = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")
COMMENT = re.compile(r"/\*.*?\*/")
SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


class Origin(NamedTuple):
    """Where an instruction comes from; empty where it does not say."""

    op: str = ""
    line: str = ""


@dataclass(frozen=True)
class Collective:
    """One collective of a compiled program."""

    kind: str
    axes: tuple[str, ...]
    """Mesh axes along which its groups reach."""
    members: int
    """Devices in a group."""
    dtype: str
    bytes: int
    """Sent by one device, once; see the module."""
    trips: int
    """How often a step runs it; a loop of unknown length counts once."""
    op: str
    """Name stack of the operation it serves, e.g. `jit(step)/jvp(GPT)/blocks/.../dot_general`."""
    line: str
    """`file:line`, the innermost that is of no library."""

    @property
    def total(self) -> int:
        """Bytes that one device sends in a step."""
        return self.bytes * self.trips


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """The collectives of `compiled.as_text()`; `mesh` has the sizes of its axes, in order.

    Asynchronous pairs count once, and so do the fusions over which a TPU spreads one collective.

    Raises: ValueError where the text is no HLO, or has a notation that is not known here.
    """
    module = _Module(text, mesh)
    found: dict[tuple, Collective] = {}
    for channel, one in module.walk(module.entry, 1, Origin()):
        # Pieces of one collective may stand in a loop that runs in the meantime.
        key = channel, one.kind, one.bytes, one.op
        found[key] = min(found.get(key, one), one, key=lambda piece: piece.trips)
    return [one for one in found.values() if one.bytes]


def runs(text: str, what: str) -> int:
    """How many lines with `what` the program runs, those in loops as often as the loops turn."""
    module = _Module(text, {})

    def count(name: str) -> int:
        found = 0
        for line in module.lines[name]:
            if what in line:
                found += 1
            elif loop := WHILE.search(line):
                found += module._trips(line, *loop.groups()) * count(loop[2])
            else:
                found += sum(map(count, _called(line)))
        return found

    return count(module.entry)


class _Module:
    """The computations of an HLO text, by name."""

    def __init__(self, text: str, mesh: Mapping[str, int]):
        self.text, self.mesh = text, mesh
        heads = list(COMPUTATION.finditer(text))
        entries = [head[2] for head in heads if head[1]]
        if not entries:
            raise ValueError("this is no HLO module: it has no ENTRY")
        self.entry = entries[0]
        ends = [*(head.start() for head in heads[1:]), len(text)]
        self.lines = {
            head[2]: text[head.end() : end].splitlines()
            for head, end in zip(heads, ends, strict=True)
        }

    def walk(
        self, name: str, trips: int, caller: Origin, *, piece: bool = False
    ) -> Iterator[tuple[str, Collective]]:
        """Every collective that computation `name` leads to, with what tells it from others: its
        channel where it may be a `piece` of one, else its own name, as loops share channels."""
        for line in self.lines[name]:
            origin = self._origin(line)
            origin = origin if any(origin) else caller
            if found := COLLECTIVE.search(line):
                channel = _attribute(line, r"channel_id=(\d+)") if piece else ""
                itself = name + line.partition(" = ")[0]
                yield channel or itself, self._read(line, found, name, trips, origin)
            elif found := WHILE.search(line):
                condition, body = found.groups()
                if body in self._talking:
                    count = trips * self._trips(line, condition, body)
                    yield from self.walk(body, count, origin, piece=piece)
            else:
                for callee in _called(line):
                    if callee in self._talking:
                        yield from self.walk(callee, trips, origin, piece=True)

    def _read(
        self, line: str, found: re.Match, computation: str, trips: int, origin: Origin
    ) -> Collective:
        kind = found["kind"]
        dtypes, sizes = _results(found["shape"], started=bool(found["start"]))
        if kind == "collective-permute":
            rows = replicas.pairs(line)
            sizes = sizes if len(rows) else [0]
        else:
            rows = replicas.groups(line, math.prod(self.mesh.values()))
        sent = KINDS[kind](sum(sizes), rows.shape[1])
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind, sent = "reduce-scatter", sent // 2  # a fusion of TPUs that keeps one slice
        axes = replicas.axes(rows, self.mesh)
        dtype = dtypes[int(np.argmax(sizes))]
        return Collective(kind, axes, rows.shape[1], dtype, sent, trips, *origin)

    def _trips(self, line: str, condition: str, body: str) -> int:
        """How often a loop runs: as it says, or as it counts from 0 to a bound; else 1."""
        if found := TRIPS.search(line):
            return int(found[1])
        test, work = "\n".join(self.lines[condition]), "\n".join(self.lines[body])
        bounds, places = BOUND.findall(test), re.findall(r"index=(\d+)", COMMENT.sub("", test))
        results = _attribute(COMMENT.sub("", work), r"ROOT .* tuple\((.*?)\)").split(", ")
        if "direction=LT" not in test or (len(bounds), len(places)) != (1, 1):
            return 1
        counter = results[int(places[0])]
        while copied := _attribute(work, rf"{re.escape(counter)} = \S+ copy\((%?[\w.-]+)\)"):
            counter = copied
        terms = _attribute(work, rf"{re.escape(counter)} = .* add\((.*?)\)").split(", ")
        steps = [
            _attribute(work, rf"{re.escape(term)} = {BOUND.pattern}") for term in terms if term
        ]
        return next((-(-int(bounds[0]) // int(step)) for step in steps if step), 1)

    @cached_property
    def _talking(self) -> set[str]:
        """The computations that lead to a collective."""
        calls = {
            name: {callee for line in lines for callee in _called(line)}
            for name, lines in self.lines.items()
        }
        talking = {n for n, lines in self.lines.items() if any(map(COLLECTIVE.search, lines))}
        while more := {n for n, called in calls.items() if called & talking} - talking:
            talking |= more
        return talking

    def _origin(self, line: str) -> Origin:
        op = _attribute(line, r'op_name="([^"]*)"')
        if frame := _attribute(line, r"stack_frame_id=(\d+)"):
            return Origin(op, self._frames.get(int(frame), ""))
        file, number = (_attribute(line, rf"source_{x}=\"?([^\" }}]*)") for x in ("file", "line"))
        return Origin(op, f"{file}:{number}" if _of_a_model(file) else "")

    @cached_property
    def _frames(self) -> dict[int, str]:
        """The innermost line of a model on each stack of calls, by the number of its last frame."""
        files = dict(re.findall(r'^(\d+) "(.*)"$', self._table("FileNames"), re.M))
        entry = r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)"
        lines = {
            number: (files[file], line)
            for number, file, line in re.findall(entry, self._table("FileLocations"), re.M)
        }
        entry = r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?"
        frames: dict[int, str] = {}
        for number, place, parent in re.findall(entry, self._table("StackFrames"), re.M):
            file, line = lines[place]
            above = frames.get(int(parent or 1) - 1, "")  # parents are one too high; 1 is none
            frames[int(number)] = f"{file}:{line}" if _of_a_model(file) else above
        return frames

    def _table(self, name: str) -> str:
        return _attribute(self.text, rf"(?ms)^{name}\n(.*?)\n\n")


def _results(shape: str, started: bool) -> tuple[list[str], list[int]]:
    """Element types and bytes of a collective's results; what starts one has operands before them,
    and numbers after them.
    """
    found = SHAPE.findall(shape)
    if started:
        found = [(dtype, dims) for dtype, dims in found if dims or dtype not in ("u32", "s32")]
        alone = not shape.startswith("(")
        found = found if alone else found[len(found) // 2 :]
    return [dtype for dtype, _ in found], [_size(*one) for one in found]


def _size(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" else int(_attribute(dtype, r"(\d+)") or 0)
    return math.prod(map(int, filter(None, dims.split(",")))) * bits // 8


def _called(line: str) -> list[str]:
    found = [name for group in CALLS.findall(line) for name in re.findall(r"[\w.-]+", group)]
    loop = WHILE.search(line)
    return [*found, loop[2]] if loop else found


def _attribute(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _of_a_model(file: str) -> bool:
    return bool(file) and not any(part in file for part in LIBRARIES)
