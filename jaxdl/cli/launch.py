"""Several processes on this machine: a rehearsal of what a cluster does."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jaxdl.cli.working import Working
from jaxdl.core.errors import InputError
from jaxdl.parallel import Member
from jaxdl.parallel.processes import find

ENDED_WELL = (0, 75, 130)
"""Exit codes after which the others end by themselves."""
ABORTED = 128 + signal.SIGABRT
GRACE, PATIENCE = 3.0, 60.0
"""Seconds for which the others may stand still when one has failed, or was preempted."""
LAST_WORDS = 20
"""Lines that are shown of a process that failed."""
TICK = 0.02
COUNT = "--xla_force_host_platform_device_count"
PARENT_DEATH = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@dataclass(frozen=True)
class Processes:
    """Several processes for one run.

    On a cluster (Cloud TPU, GKE, SLURM, Open MPI, Kubernetes jobs) the same command on every host
    is enough. Elsewhere tell each process its place.
    """

    processes: int = 1
    """Rehearse this many on this machine's CPU."""
    devices_per_process: int = 1
    """Devices that each of the rehearsing processes plays."""
    coordinator: str = ""
    """HOST:PORT where process 0 listens."""
    process_id: int | None = None
    """Which process this is, from 0."""
    process_count: int | None = None
    """How many there are; 1 trains alone, whatever the cluster says."""

    def __post_init__(self):
        """Refuses what cannot be meant."""
        for name in ("processes", "devices_per_process"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.devices_per_process > 1 and self.processes == 1:
            raise InputError(
                f"devices_per_process={self.devices_per_process} is for rehearsals; add "
                "--processes 2 or more."
            )
        placed = self.coordinator or (self.process_id, self.process_count) != (None, None)
        if self.processes > 1 and placed:
            raise InputError("--processes starts all of them here; leave the other options out.")

    def member(self) -> Member | None:
        """This process's place; None alone."""
        return find(self.coordinator, self.process_id, self.process_count)


def launch(arguments: Sequence[str], count: int, devices: int) -> int:
    """Runs `jaxdl` with these arguments as `count` processes of one run, each with so many CPU
    devices; the exit code.

    Process 0 has this terminal. Of the others the last words are shown should one fail; then all
    end, and the exit code is that of the first that failed. They end by themselves as soon as they
    miss it, and may write as long as they need; those that stand still wait for it, and are killed.
    SIGTERM and Ctrl-C are passed on; the second time all are killed.
    """
    coordinator = f"127.0.0.1:{_free_port()}"
    place = ["--coordinator", coordinator, "--process-count", str(count), "--process-id"]
    command = [sys.executable, "-P", "-m", "jaxdl", *arguments, *place]
    children = [Child([*command, str(i)], i, devices) for i in range(count)]
    try:
        with _passing_on(children):
            return _end(children)
    finally:
        for child in children:
            child.close()


class Child:
    """One process, and its last words where they are not on the terminal."""

    def __init__(self, command: Sequence[str], index: int, devices: int):
        self.index, self._words = index, deque(maxlen=LAST_WORDS)
        flags = re.sub(rf"{COUNT}=\S*", "", os.environ.get("XLA_FLAGS", ""))
        env = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} {COUNT}={devices}".strip(),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if index else {}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=os.environ | env,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C of the terminal is passed on, once
            preexec_fn=_dying_with_us if sys.platform == "linux" else None,
            **pipes,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def code(self) -> int | None:
        """Exit code as a shell tells it; None while it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def last_words(self) -> str:
        """What it said at the end."""
        self._reader.join(timeout=1)
        return "".join(self._words)

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        if self.process.stdout:
            with self.process.stdout as lines:
                self._words.extend(lines)


def _end(children: Sequence[Child]) -> int:
    """Waits until all have ended, and ends those that wait for one that has; the exit code."""
    failed, watched, killed = None, {}, set()
    while running := [child for child in children if child.code is None]:
        time.sleep(TICK)
        codes = {child: child.code for child in children}
        ended = {child: code for child, code in codes.items() if child not in killed}
        bad = [child for child, code in ended.items() if code not in (None, *ENDED_WELL)]
        if bad and failed is None:
            # What jax does to itself when another has gone is no cause.
            failed = min(bad, key=lambda child: codes[child] == ABORTED)
        if failed or any(codes.values()):
            watched = watched or {child: Working(child.process.pid) for child in running}
            limit = GRACE if failed else PATIENCE
            for child in running:
                if watched[child].still() > limit:
                    child.process.kill()
                    killed.add(child)
    if failed is None:
        return max(child.code or 0 for child in children if child not in killed)
    # Bad input is every process's, and process 0 has said so here.
    if failed.code != 2 or children[0].code != 2:
        _tell(failed, len(children))
    return failed.code


def _tell(failed: Child, count: int) -> None:
    how, number = f"ended with exit code {failed.code}", failed.process.returncode
    if number < 0:
        how = f"was ended by {signal.Signals(-number).name}"
    words = failed.last_words()
    said = f"; its last words:\n{words.rstrip()}" if words else ""
    print(f"jaxdl: process {failed.index} of {count} {how}, so all end{said}", file=sys.stderr)


@contextmanager
def _passing_on(children: Sequence[Child]) -> Iterator[None]:
    """SIGTERM and Ctrl-C go to all children; the second time they are killed."""
    asked = []

    def handle(number, frame):
        for child in children:
            if child.code is None:
                child.process.send_signal(signal.SIGKILL if asked else number)
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dying_with_us() -> None:
    """In a child: it gets SIGTERM, and saves, when the launcher has died."""
    ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGTERM)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
