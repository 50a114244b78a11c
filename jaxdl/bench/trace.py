"""Reading what `jax.profiler` wrote: which operations ran, how long, and what they belong to."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxdl.bench.lines import lines
from jaxdl.core.errors import InputError

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\(", re.M)
OPERAND = re.compile(r"%([\w.\-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
FRAME = re.compile(r"stack_frame_id=(\d+)")
WRAPPER = re.compile(r"^(?:jvp|transpose|vmap|checkpoint|remat)\((.*)\)$")
UNNAMED = "unnamed"
LABELLED = "labelled.json.gz"
NOT_MODULES = re.compile(
    r"closed_call|shard_map|while|body|cond|branch_\d+_fun|checkpoint|rematted_computation"
)
"""Components of a name stack that jax puts between those of modules."""


@dataclass(frozen=True)
class Source:
    """Where an operation comes from."""

    module: str
    """Path of the module, e.g. `GPT/blocks/layers/attention`; empty outside modules."""
    phase: str
    """`forward`, `backward`, `update` (all that is outside the gradient), or `unnamed`."""
    kind: str
    """The primitive, or the HLO opcode of what has no name: copies made by the compiler."""
    line: str = ""
    """`file:line` of the code that asked for it; empty where none is known."""


@dataclass(frozen=True)
class Event:
    """One execution of an operation: HLO instruction, thread, start and length in microseconds."""

    op: str
    thread: tuple[int, int]
    start: float
    length: float


def read_events(folder: Path) -> list[Event]:
    """Operations of the compiled programs in the newest trace under `folder`.

    Raises: InputError where there is no trace, or none of compiled programs.
    """
    newest = _newest(folder)
    events = [
        Event(e["args"]["hlo_op"], (e["pid"], e["tid"]), e["ts"], e["dur"])
        for e in _read(newest)["traceEvents"]
        if _runs(e)
    ]
    if not events:
        raise InputError(f"{newest} names no operation of a compiled program.")
    return events


def label(folder: Path, sources: Mapping[str, Source]) -> Path:
    """Writes LABELLED, the newest trace under `folder` in which each operation is called by its
    phase and module, with its line among the arguments.

    Raises: InputError where there is no trace.
    """
    found = _read(_newest(folder))
    for event in filter(_runs, found["traceEvents"]):
        if source := sources.get(event["args"]["hlo_op"]):
            event["name"] = f"{source.phase} {source.module or source.kind}"
            event["args"] |= vars(source)
    with gzip.open(folder / LABELLED, "wt", compresslevel=4) as file:
        json.dump(found, file)
    return folder / LABELLED


def _newest(folder: Path) -> Path:
    traces = sorted(folder.rglob("*.trace.json.gz"), key=lambda p: p.stat().st_mtime)
    if not traces:
        raise InputError(f"{folder} holds no *.trace.json.gz.")
    return traces[-1]


def _read(path: Path) -> dict[str, Any]:
    with gzip.open(path) as file:
        return json.load(file)


def _runs(event: Mapping[str, Any]) -> bool:
    """Whether it is the execution of an operation."""
    return event.get("ph") == "X" and "hlo_op" in event.get("args", {})


def self_times(events: Iterable[Event]) -> dict[str, float]:
    """Microseconds by operation, all executions together, without those inside them (a loop's)."""
    times: dict[str, float] = defaultdict(float)
    by_thread: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        by_thread[event.thread].append(event)
    for thread in by_thread.values():
        around: list[Event] = []
        for event in sorted(thread, key=lambda e: (e.start, -e.length)):
            while around and around[-1].start + around[-1].length <= event.start:
                around.pop()
            if around:
                times[around[-1].op] -= event.length
            times[event.op] += event.length
            around.append(event)
    return dict(times)


def busy(events: Iterable[Event]) -> float:
    """Microseconds in which at least one operation ran."""
    total = end = 0.0
    for event in sorted(events, key=lambda e: e.start):
        stop = event.start + event.length
        total += max(0.0, stop - max(event.start, end))
        end = max(end, stop)
    return total


def sources(hlo: str) -> dict[str, Source]:
    """The source of each instruction in the text of a compiled module.

    What has no name, such as a copy into another layout, belongs to the first that uses it.
    """
    found: dict[str, Source] = {}
    user: dict[str, str] = {}
    at = lines(hlo)
    for match in INSTRUCTION.finditer(hlo):
        name, opcode = match.groups()
        line = hlo[match.end() : hlo.find("\n", match.end())]
        named, frame = OP_NAME.search(line), FRAME.search(line)
        place = at.get(int(frame[1]), "") if frame else ""
        found[name] = source(named[1], opcode, place) if named else Source("", UNNAMED, opcode)
        for operand in OPERAND.findall(line):
            user.setdefault(operand, name)
    return {name: _owned(name, found, user) for name in found}


def _owned(name: str, found: Mapping[str, Source], user: Mapping[str, str]) -> Source:
    owner, kind = name, found[name].kind
    while found[owner].phase == UNNAMED and user.get(owner) in found:
        owner = user[owner]
    return replace(found[owner], kind=kind)


def source(op_name: str, opcode: str, line: str = "") -> Source:
    """What `jit(step)/transpose(jvp(GPT))/norm/mul` says: module, phase and primitive."""
    path, _, kind = op_name.rpartition("/")
    return Source(module_of(path), phase_of(op_name), kind if path else opcode, line)


def module_of(stack: str) -> str:
    """The module's path in a name stack, without what jax and flax put around it."""
    parts: list[str] = []
    for part in stack.split("/"):
        while wrapped := WRAPPER.match(part):
            part = wrapped[1]
        # Flax writes `name.method`; einsum its equation.
        name = part.partition(".")[0]
        known = name and "(" not in name and "->" not in part and not NOT_MODULES.fullmatch(name)
        if known and parts[-1:] != [name]:
            parts.append(name)
    return "/".join(parts)


def phase_of(stack: str) -> str:
    """Which part of a training step a name stack belongs to."""
    if "transpose(" in stack:
        return "backward"
    return "forward" if "jvp(" in stack else "update"


def grouped(times: Mapping[str, float], keys: Mapping[str, str]) -> dict[str, float]:
    """Times added up by the key of their operation, longest first."""
    sums: dict[str, float] = defaultdict(float)
    for op, time in times.items():
        sums[keys.get(op, "")] += time
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
