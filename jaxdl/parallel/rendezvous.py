"""Where the processes of one run meet before jax starts, so that whoever is missing or differs is
named.

Process 0 listens on the coordinator's port. Every other process says one line of JSON to it, who it
is and what it was started with, and gets one line back: what is wrong, or that all is well.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from jaxdl.core.errors import InputError

GREETING = "jaxdl rendezvous 1"
LONGEST = 2**22
"""Bytes of one line."""
PAUSE = 0.1
"""Seconds between two attempts to reach process 0."""
SLACK = 5.0
"""Seconds that process 0 has to read a line, and that the others wait longer than it does."""
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Member:
    """One process of a run: where process 0 listens (`host:port`), its number, how many there are.

    Raises:
        InputError: such a process cannot be.
    """

    coordinator: str
    index: int
    count: int
    local_devices: tuple[int, ...] | None = None
    """Those of the machine's devices that are this process's; None: all."""

    def __post_init__(self):
        """Checks what can be known alone."""
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise InputError(f"coordinator={self.coordinator!r} must be HOST:PORT of process 0.")
        if self.count < 1 or not 0 <= self.index < self.count:
            raise InputError(
                f"process {self.index} of {self.count}: numbers go from 0 to {self.count - 1}."
                if self.count > 0
                else f"there cannot be {self.count} processes; start at least 1."
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of process 0."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def __str__(self) -> str:
        """As messages name it."""
        return f"process {self.index} of {self.count}"


def meet(me: Member, facts: Facts, seconds: float) -> None:
    """Returns when all processes of the run have come, within `seconds`, with the same `facts`
    (JSON: the experiment, versions ...).

    Raises:
        InputError: one has not come, nobody answers, two have one number, or one differs; the same
        message in every process that came.
    """
    if me.index == 0:
        _gather(me, facts, seconds)
    else:
        _report(me, facts, seconds)


def _gather(me: Member, facts: Facts, seconds: float) -> None:
    """Process 0: hears the others and answers them all alike."""
    with ExitStack() as stack:
        server = stack.enter_context(_listening(me))
        came: dict[int, tuple[socket.socket, dict]] = {}
        problem, deadline = "", time.monotonic() + seconds
        while len(came) < me.count - 1 and not problem:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                line = stack.enter_context(server.accept()[0])
            except TimeoutError:
                lost = [str(i) for i in range(1, me.count) if i not in came]
                problem = (
                    f"{_processes(lost)} of {me.count} {'has' if len(lost) == 1 else 'have'} not "
                    f"come to {me.coordinator} within {seconds:g} s; start every process with the "
                    "same coordinator."
                )
                break
            hello = _read(line, SLACK)
            if not hello or hello.get("greeting") != GREETING:
                continue  # a port scanner, or a process that has died since
            problem = _misplaced(me, came, hello)
            came[hello["index"]] = line, hello
        problem = problem or _odd(facts, {i: hello["facts"] for i, (_, hello) in came.items()})
        for line, _ in came.values():
            _write(line, {"greeting": GREETING, "problem": problem})
    if problem:
        raise InputError(problem)


def _report(me: Member, facts: Facts, seconds: float) -> None:
    """The others: say who they are and hear whether all is well."""
    deadline = time.monotonic() + seconds
    with _connected(me, deadline, seconds) as line:
        hello = {"index": me.index, "count": me.count, "facts": facts}
        _write(line, {"greeting": GREETING} | hello)
        answer = _read(line, max(deadline - time.monotonic(), 0) + SLACK)
    if answer is None:
        raise InputError(
            f"{me}: process 0 at {me.coordinator} has gone, or did not say within {seconds:g} s "
            "whether all have come; look at its own message."
        )
    if answer.get("greeting") != GREETING:
        raise InputError(
            f"{me}: what answers at {me.coordinator} is not process 0 of a run; is the port right?"
        )
    if answer["problem"]:
        raise InputError(answer["problem"])


def _misplaced(me: Member, came: Mapping[int, Any], hello: Mapping[str, Any]) -> str:
    """What is wrong with the number of the process that says hello."""
    index, count = hello["index"], hello["count"]
    if count != me.count:
        return f"process {index} was started as one of {count} processes, process 0 of {me.count}."
    if index in came:
        return f"two processes say that they are process {index}; give each a number of its own."
    return ""


def _odd(mine: Facts, theirs: Mapping[int, Facts]) -> str:
    """Which processes were started with other facts than process 0, and the first differences."""
    told = []
    for index, facts in sorted(theirs.items()):
        ours, others = _flat(mine), _flat(facts)
        paths = [path for path in ours | others if ours.get(path) != others.get(path)]
        parts = [f"{p} is {others.get(p)!r}, not {ours.get(p)!r}" for p in paths[:3]]
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        if parts:
            told.append(f"process {index}: {'; '.join(parts)}{more}")
    if not told:
        return ""
    return f"not all processes were started alike. Against process 0: {'. '.join(told)}."


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a JSON value by dotted path."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    parts = [_flat(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def _listening(me: Member) -> socket.socket:
    port = me.address[1]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(
            f"{me} cannot listen on port {port}: {os.strerror(error.errno)}; end the other "
            "program or process 0 that does, or choose another port for every process."
        ) from None


def _connected(me: Member, deadline: float, seconds: float) -> socket.socket:
    """A connection to process 0, which may start later."""
    while True:
        try:
            line = socket.create_connection(me.address, timeout=SLACK)
            if line.getsockname() != line.getpeername():
                return line
            line.close()  # with nobody there, a port may be given to its own caller
            reason = "Connection refused"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise InputError(
                f"{me}: nobody answers at {me.coordinator} within {seconds:g} s ({reason}); is "
                "process 0 running there, and is the port right?"
            )
        time.sleep(PAUSE)


def _read(line: socket.socket, seconds: float) -> dict | None:
    """One line of JSON; empty for what is something else, None where nothing comes."""
    line.settimeout(max(seconds, 1e-3))
    try:
        text = line.makefile("rb").readline(LONGEST)
    except OSError:
        return None
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(line: socket.socket, value: Mapping[str, Any]) -> None:
    try:
        line.sendall(json.dumps(value).encode() + b"\n")
    except OSError:
        pass  # who has gone is missed when its answer is read


def _processes(numbers: list[str]) -> str:
    return f"process {numbers[0]}" if len(numbers) == 1 else f"processes {', '.join(numbers)}"
