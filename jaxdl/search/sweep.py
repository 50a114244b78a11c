"""The trials of a study as runs in child processes, a few at a time, until none is left."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdl.core.change import change
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.records import METRICS, write_json
from jaxdl.search.jobs import Pool
from jaxdl.search.objective import Objective
from jaxdl.search.space import Space, edits_of
from jaxdl.search.study import Row, Study, identity
from jaxdl.search.variant import write_variant

if TYPE_CHECKING:
    import optuna

TICK, IDLE = 0.2, 1.0
"""Seconds between two looks at the children, and at a storage that had no trial for us."""
INSIST = 60.0
"""Seconds after which a child that was told to stop is told again, which ends it at once."""
STUDY = "study.json"
"""Says in a folder whose trials are there."""
PREEMPTED, CODES = 75, {None: 0, signal.SIGINT: 130, signal.SIGTERM: 75}


Start = Callable[[Sequence[str], Path, int], subprocess.Popen]
"""Starts `jaxdl ARGUMENTS` as the leader of a process group, in a slot; what it says goes to a
file."""


@dataclass(frozen=True)
class Plan:
    """What a sweep runs, and where."""

    spec: str
    """`file.py[:variant]`."""
    sets: tuple[str, ...]
    experiment: Experiment
    """What `spec` and `sets` describe."""
    space: Space
    objectives: tuple[Objective, ...]
    folder: Path
    """A trial is an experiment file there, a run directory and a log."""
    jobs: int = 1
    beat: float = 10.0
    """Seconds between two marks on a trial that runs."""
    grace: float = 60.0
    """Seconds after which a trial whose mark stands still is another's to run."""

    def run_of(self, number: int) -> Path:
        """The run directory of a trial."""
        return self.folder / f"trial-{number:04d}"


@dataclass
class Running:
    """A trial that this process runs."""

    trial: Any
    run: Path
    file: Path
    tail: Tail
    steps: int
    beat: float
    """When its mark is due."""
    child: subprocess.Popen | None = None
    """None while a process that lost its sweep still trains there."""
    why: str = ""
    """`pruned` or `lost`, once it was told to stop."""
    told: float = 0.0

    def stop(self, why: str) -> None:
        """Tells the child to save and end."""
        self.why, self.told = why, time.monotonic()
        if self.child:
            self.child.terminate()


@dataclass
class Tail:
    """The values of one metric that a run has written since the last look."""

    run: Path
    name: str
    _inode: int = 0
    _offset: int = 0

    def fresh(self) -> Iterator[tuple[int, float]]:
        """Steps and values; from the start again when the file was replaced."""
        split, _, metric = self.name.partition("/")
        for line in self._lines():
            record = json.loads(line)
            if record["split"] == split and metric in record["values"]:
                value = record["values"][metric]
                yield record["step"], math.nan if value is None else value

    def _lines(self) -> list[bytes]:
        with suppress(FileNotFoundError), (self.run / METRICS).open("rb") as file:
            now = os.fstat(file.fileno())
            same = now.st_ino == self._inode and now.st_size >= self._offset
            self._inode, self._offset = now.st_ino, self._offset if same else 0
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
            self._offset += len(whole) + bool(whole)
            return whole.splitlines()
        return []


class Sweep:
    """One worker of a study: claims trials, runs them, reports them."""

    def __init__(self, plan: Plan, study: Study, start: Start, tell: Callable[[Row], None]):
        self._plan, self._study, self._start, self._tell = plan, study, start, tell
        self._pool = Pool(plan.jobs)
        self._running: dict[int, Running] = {}
        self._next_look = 0.0

    def run(self) -> int:
        """Works until every trial of the study has ended, whoever ran it; the exit code."""
        with _at_work(self._plan.folder, self._study.worker), self._pool.stopping():
            while self._running or not (self._pool.received or self._study.finished()):
                for slot, code in self._pool.ended():
                    self._conclude(self._running.pop(slot), code)
                for slot, running in list(self._running.items()):
                    self._follow(slot, running)
                self._fill()
                time.sleep(TICK if self._running else min(IDLE, self._plan.beat))
        if not self._pool.received:
            _tidy(self._plan.folder)
        return CODES[self._pool.received]

    def _fill(self) -> None:
        """Claims a trial for every free slot; looks after those of workers that are gone."""
        free = [slot for slot in self._pool.free() if slot not in self._running]
        if self._pool.received or not free or time.monotonic() < self._next_look:
            return
        folder = self._plan.folder
        self._study.reclaim(lambda worker: _gone(folder, worker), self._plan.grace)
        for slot in free:
            trial = self._study.claim()
            if trial is None:
                self._next_look = time.monotonic() + min(IDLE, self._plan.beat)
                return
            self._begin(slot, trial)

    def _begin(self, slot: int, trial: Any) -> None:
        plan, run = self._plan, self._plan.run_of(trial.number)
        edits = edits_of(plan.space, trial.params)
        try:
            steps = change(plan.experiment, edits).steps
        except InputError as error:  # each was legal alone
            self._study.fail(trial, str(error))
            self._told(trial)
            return
        file = run.with_suffix(".py")
        write_variant(file, plan.spec, plan.sets, edits, f"Trial {trial.number} of {plan.folder}.")
        tail = Tail(run, plan.objectives[0].name)
        self._running[slot] = Running(trial, run, file, tail, steps, time.monotonic() + plan.beat)

    def _follow(self, slot: int, running: Running) -> None:
        """Starts the child as soon as it can train, reports what it wrote, stops it if need be."""
        now = time.monotonic()
        if now > running.beat and running.why != "lost":
            running.beat = now + self._plan.beat
            if not self._study.keep(running.trial):
                running.stop("lost")
        if running.child is None:
            self._try(slot, running)
        elif self._report(running):
            running.stop("pruned")
        elif running.why and now > running.told + INSIST:
            running.stop(running.why)

    def _try(self, slot: int, running: Running) -> None:
        if self._pool.received or running.why:
            self._study.put_back(running.trial)
            del self._running[slot]
        elif not _locked(running.run):
            arguments = ["train", str(running.file), "--run-dir", str(running.run), "--json"]
            running.child = self._start(arguments, running.run.with_suffix(".log"), slot)
            self._pool.put(slot, running.child)

    def _report(self, running: Running) -> bool:
        """Hands new values of the objective on; whether the trial may go."""
        if len(self._plan.objectives) > 1 or running.why:
            return False
        points = list(running.tail.fresh())
        hopeless = self._study.report(running.trial, points)
        return hopeless and points[-1][0] < running.steps

    def _conclude(self, running: Running, code: int) -> None:
        """Tells the study how a run ended."""
        trial, study = running.trial, self._study
        if running.why == "lost":
            return
        self._report(running)
        if code == 0:
            try:
                study.complete(trial, [o.measure(running.run) for o in self._plan.objectives])
            except InputError as error:
                study.fail(trial, str(error))
        elif running.why == "pruned" and (code == PREEMPTED or code < 0):
            study.prune(trial)
        elif self._pool.received or code == PREEMPTED:
            study.put_back(trial)
            return
        elif code < 0 and study.put_back_once(trial):  # out of memory, or somebody's kill
            return
        else:
            study.fail(trial, _cause(running.run.with_suffix(".log"), code))
        self._told(trial)

    def _told(self, trial: Any) -> None:
        self._tell(self._study.rows()[trial.number])


@contextmanager
def _at_work(folder: Path, worker: str) -> Iterator[None]:
    """Holds a lock that shows other workers on this file system that this one lives.

    The file stays where something went wrong: unlocked, it says that its trials are anybody's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _sign(folder, worker)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def check_folder(folder: Path, study: optuna.Study) -> None:
    """Marks the folder as that of the study.

    Raises:
        InputError: it holds the trials of another, whose runs these would go on with.
    """
    file, mine = folder / STUDY, {"id": identity(study)}
    used = any(folder.glob("trial-*"))  # looked at first: whoever begins a trial has marked it
    there = json.loads(file.read_text()) if file.exists() else None
    if used and there != mine:
        raise InputError(
            f"{folder} holds trials of a study that its storage no longer has; move the folder "
            "away, or give another --study."
        )
    if there != mine:
        write_json(file, mine)


def new_worker() -> str:
    """A name that no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _gone(folder: Path, worker: str) -> bool:
    """Whether a worker that began on this file system has ended without saying so."""
    path = _sign(folder, worker)
    return path.exists() and not _locked(path)


def _tidy(folder: Path) -> None:
    """Removes what workers that went wrong have left, once their trials have all ended."""
    for path in folder.glob(_sign(folder, "*").name):
        if not _locked(path):
            path.unlink(missing_ok=True)


def _sign(folder: Path, worker: str) -> Path:
    return folder / f".worker-{worker}"


def _locked(path: Path) -> bool:
    """Whether a process holds the lock of a file or of a run directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _cause(log: Path, code: int) -> str:
    """How a child failed: its last words."""
    how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    with suppress(FileNotFoundError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{how}: {lines[-1].strip()}" if lines else how
    return how
