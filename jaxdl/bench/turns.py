"""Peers side by side: each in a process of its own, working one at a time, in turns.

On a shared machine a single time says little. Here the background load meets all peers alike, and
they are compared within a round, by the median over rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerFailed(Exception):
    """A peer's process ended; the message is the last it said."""


@dataclass(frozen=True)
class Peer:
    """A peer: `function(**kwargs) -> (run, info)`, where `run(n)` does n steps and waits for them.

    The function is named `module:function`, since its module is imported in the peer's process
    only. `run` returns a loss, or None.
    """

    name: str
    function: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """What one turn of n steps took, per step."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of CPU, all threads."""
    loss: float | None
    rss: float | None
    """Peak resident memory of the process so far, MB."""
    start: float = 0.0
    """CPU seconds of a turn of a single step, where they were taken off."""


class Worker:
    """The process of a peer; it works only when given a turn."""

    def __init__(self, peer: Peer, core: int | None):
        self.name, self.turns, self.info = peer.name, [], {}
        self._said = tempfile.TemporaryFile("w+")
        env = os.environ | (dict.fromkeys(THREADS, "1") if core is not None else {})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jaxdl.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=env,
        )
        self._send({"function": peer.function, "kwargs": dict(peer.kwargs), "core": core})

    def ready(self) -> None:
        """Waits until the peer has compiled and warmed up."""
        self.info = self._receive()

    def turn(self, steps: int) -> Turn:
        """Lets the peer do so many steps."""
        self._send(steps)
        return Turn(**self._receive())

    def marginal_turn(self, steps: int) -> Turn:
        """So many steps, less what a turn of one step takes to start and to end."""
        one, many = self.turn(1), self.turn(steps)
        wall, cpu = (
            (steps * getattr(many, clock) - getattr(one, clock)) / (steps - 1)
            for clock in ("wall", "cpu")
        )
        return Turn(wall, cpu, many.loss, many.rss, start=one.cpu)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _send(self, value: Any) -> None:
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(self._last_words()) from None

    def _receive(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        return lines[-1] if lines else f"the process ended with exit code {code}"


@dataclass(frozen=True)
class Outcome:
    """What came of a peer."""

    name: str
    info: Mapping[str, Any]
    """What its process told once it was ready."""
    turns: Sequence[Turn]
    error: str = ""

    def median(self, clock: str) -> float:
        """Seconds per step, median over turns; `clock` is `wall`, `cpu` or `start`."""
        return statistics.median(getattr(turn, clock) for turn in self.turns)

    def ratio(self, base: Outcome, clock: str) -> float:
        """Median over rounds of this peer's time over that of `base` in the same round."""
        return statistics.median(self._pairs(base, clock, lambda a, b: a / b))

    def excess(self, base: Outcome, clock: str) -> float:
        """Median over rounds of this peer's seconds per step beyond those of `base`."""
        return statistics.median(self._pairs(base, clock, lambda a, b: a - b))

    def _pairs(self, base: Outcome, clock: str, of: Any) -> list[float]:
        rounds = zip(self.turns, base.turns, strict=True)
        return [of(getattr(a, clock), getattr(b, clock)) for a, b in rounds]


def take_turns(
    peers: Sequence[Peer],
    *,
    rounds: int,
    seconds: float = 0.0,
    steps: int = 0,
    one_core: bool = False,
    marginal: bool = False,
) -> dict[str, Outcome]:
    """What came of each peer in so many rounds, by name; their order is reversed every other round.

    A turn is of `steps` steps, or of as many as the peer does in about `seconds`. `one_core` keeps
    all of them on one core, with one thread each; then compare CPU times. `marginal` takes off what
    a turn costs however short it is.
    """
    core = max(os.sched_getaffinity(0)) if one_core else None
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        workers = []
        for peer in peers:  # one after the other: compilation is measured too
            worker = Worker(peer, core)
            stack.callback(worker.close)
            with _noting(worker, failed):
                worker.ready()
            workers.append(worker)
        counts = {}
        for worker in _alive(workers, failed):
            with _noting(worker, failed):
                counts[worker.name] = steps or _steps_in(seconds, worker)
        for i in range(rounds):
            alive = _alive(workers, failed)
            for worker in alive if i % 2 == 0 else alive[::-1]:
                with _noting(worker, failed):
                    turn = worker.marginal_turn if marginal else worker.turn
                    worker.turns.append(turn(counts[worker.name]))
    return {w.name: Outcome(w.name, w.info, w.turns, failed.get(w.name, "")) for w in workers}


def _steps_in(seconds: float, worker: Worker) -> int:
    """How many steps the peer does in about so many seconds."""
    steps = 1
    while True:  # what was prepared ahead comes at once, so a single step may tell nothing
        wall = worker.turn(steps).wall
        if wall * steps > seconds / 8:
            return max(1, round(seconds / wall))
        steps *= 4


def _alive(workers: Sequence[Worker], failed: Mapping[str, str]) -> list[Worker]:
    return [worker for worker in workers if worker.name not in failed]


@contextmanager
def _noting(worker: Worker, failed: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except PeerFailed as error:
        failed[worker.name] = str(error)
