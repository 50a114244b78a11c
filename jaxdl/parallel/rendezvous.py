"""Where the processes of one run meet before jax starts, so that whoever is missing or differs is
named.

Process 0 listens on the coordinator's port. Every other process says one line of JSON to it, who it
is and what it was started with, and gets one line back: what is wrong, or that all is well. Then
the port is jax's, and who comes later hears from jax that the run has begun.
"""

from __future__ import annotations

import errno
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
BEGUN = bytes([4, 0, 0, 0, 0, 0])
"""After its length, the first frame of HTTP/2, with which jax's coordinator answers anyone."""
LONGEST = 2**22
"""Bytes of one line."""
PAUSE = 0.1
"""Seconds between two attempts to reach process 0."""
SLACK = 5.0
"""Seconds at most for a line to be read, or for a connection."""
LATER = 1 / 7
"""By which share of its time the others wait longer than process 0, to hear what it found."""
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
    """Returns when all processes of the run have come with the same `facts` (JSON: the experiment,
    versions ...): to process 0 within `seconds`, to the others within 1 + `LATER` times that.

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
        server = stack.enter_context(_listening(me, facts))
        heard: list[socket.socket] = []
        came: dict[int, Facts] = {0: facts}
        problem, deadline = "", time.monotonic() + seconds
        while not problem:
            missing = [i for i in range(me.count) if i not in came]
            # Once all have come, those who stand in line come too often.
            line = _accepted(server, deadline if missing else 0.0)
            if line is None:
                problem = _missed(me, missing, seconds)
                break
            hello = _read(stack.enter_context(line), min(SLACK, deadline - time.monotonic()))
            if not hello or hello.get("greeting") != GREETING:
                continue  # a port scanner, or a process that has died since
            heard.append(line)
            problem = _misplaced(me, came, hello)
            came.setdefault(hello["index"], hello["facts"])
        problem = problem or _odd(came)
        for line in heard:
            _write(line, {"greeting": GREETING, "problem": problem})
    if problem:
        raise InputError(problem)


def _report(me: Member, facts: Facts, seconds: float) -> None:
    """The others: say who they are and hear whether all is well."""
    start, limit = time.monotonic(), seconds * (1 + LATER)
    with _connected(me, start + seconds, seconds) as line:
        answer = _answer(me, facts, line, start + limit - time.monotonic())
    if answer is None:
        raise InputError(
            f"{me}: process 0 at {me.coordinator} has gone, or did not say within {limit:.3g} s "
            "whether all have come; look at its own message."
        )
    if answer.get("begun"):
        raise InputError(_too_late(me))
    if answer.get("greeting") != GREETING:
        raise InputError(
            f"{me}: what answers at {me.coordinator} is not process 0 of a run; is the port right?"
        )
    if answer["problem"]:
        raise InputError(answer["problem"])


def _answer(me: Member, facts: Facts, line: socket.socket, seconds: float) -> dict | None:
    """What process 0, on the other end, says to this process."""
    hello = {"index": me.index, "count": me.count, "facts": facts}
    _write(line, {"greeting": GREETING} | hello)
    return _read(line, seconds)


def _accepted(server: socket.socket, deadline: float) -> socket.socket | None:
    """The next that comes before the deadline, or stands in line already; None if nobody."""
    server.settimeout(max(deadline - time.monotonic(), 1e-3))
    try:
        return server.accept()[0]
    except TimeoutError:
        return None


def _missed(me: Member, missing: list[int], seconds: float) -> str:
    """Who has not come, if anyone; and why nobody could, where that is to be seen."""
    if not missing:
        return ""
    told = (
        f"{_processes([str(i) for i in missing])} of {me.count} "
        f"{'has' if len(missing) == 1 else 'have'} not come to {me.coordinator} within "
        f"{seconds:g} s; start every process with the same coordinator"
    )
    host = me.address[0]
    elsewhere = f", where process 0 runs: {host} is not this machine, which says it is process 0"
    return told + (elsewhere if _is_elsewhere(host) else "") + "."


def _is_elsewhere(host: str) -> bool:
    """Whether an address is known not to be one of this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as one:
            one.bind(address)
    except socket.gaierror:
        return False
    except OSError as error:
        return error.errno == errno.EADDRNOTAVAIL
    return False


def _twice(index: int) -> str:
    return f"two processes say that they are process {index}; give each a number of its own."


def _too_late(me: Member) -> str:
    """For a process that comes when all have met."""
    return (
        f"{me}: all processes of the run at {me.coordinator} have met already, so "
        f"{_twice(me.index)[:-1]}, or another run another port."
    )


def _misplaced(me: Member, came: Mapping[int, Any], hello: Mapping[str, Any]) -> str:
    """What is wrong with the number of the process that says hello."""
    index, count = hello["index"], hello["count"]
    if count != me.count:
        return f"process {index} was started as one of {count} processes, process 0 of {me.count}."
    return _twice(index) if index in came else ""


def _odd(came: Mapping[int, Facts]) -> str:
    """Which processes were started with other facts than process 0, and the first differences."""
    told = []
    for index, facts in sorted(came.items()):
        ours, others = _flat(came[0]), _flat(facts)
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


def _listening(me: Member, facts: Facts) -> socket.socket:
    port = me.address[1]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = os.strerror(error.errno)
    raise InputError(
        _of_another_first(me, facts)
        or f"{me} cannot listen on port {port}: {reason}; end the other program that does, or "
        "choose another port for every process."
    )


def _of_another_first(me: Member, facts: Facts) -> str:
    """What process 0 of a run, where that is who has this one's port, says to it."""
    try:
        with socket.create_connection(("localhost", me.address[1]), timeout=SLACK) as line:
            answer = _answer(me, facts, line, SLACK) or {}
    except OSError:
        return ""
    return _too_late(me) if answer.get("begun") else answer.get("problem", "")


def _connected(me: Member, deadline: float, seconds: float) -> socket.socket:
    """A connection to process 0, which may start later."""
    while True:
        try:
            left = max(deadline - time.monotonic(), PAUSE)
            line = socket.create_connection(me.address, timeout=min(SLACK, left))
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
    """One line of JSON; `begun` from jax, empty for what is something else, None for nothing."""
    line.settimeout(max(seconds, 1e-3))
    try:
        text = line.makefile("rb").readline(LONGEST)
    except OSError:
        return None
    if not text:
        return None
    if text[3:9] == BEGUN:
        return {"begun": True}
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
