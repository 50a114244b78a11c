"""The run directory: opened once, written to by process 0, read back on resume."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl import parallel
from jaxdl.core import records
from jaxdl.core.change import diff
from jaxdl.core.codec import load
from jaxdl.core.errors import InputError
from jaxdl.core.hook import Stop
from jaxdl.core.records import Passport, Record, Result
from jaxdl.core.settings import settings
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.state import State

log = logging.getLogger("jaxdl")


class RunDir:
    """One run on disk. Implements `jaxdl.core.hook.Run`."""

    def __init__(
        self, directory: Path, passport: Passport, checkpoints: Checkpoints, lock: int | None
    ):
        self.path, self.passport, self.checkpoints = directory, passport, checkpoints
        self.result = records.read_result(directory)
        self.records = list(records.read_records(directory))
        self.latest: dict[str, float] = {}
        self.newest = 0
        """The last update that has a record."""
        self._history: dict[str, list[tuple[int, float]]] = {}
        self.hooks: dict[str, Any] = {}
        self.ended: list[Callable[[Result], None]] = []
        """Called in turn once the result is written."""
        self.saved: int | None = None
        self._writes = parallel.is_first()
        self._lock = lock
        before = [r.time for r in self.records] + [self.result.seconds if self.result else 0.0]
        self._start = time.monotonic() - max(before)
        self._lines = self._board = None
        self._muted = self.begun = False

    @property
    def seconds(self) -> float:
        """Time spent training, earlier sittings included."""
        return time.monotonic() - self._start

    def begin(self, step: int) -> None:
        """Prepares to write what follows `step`: later records, of a sitting that was lost, go."""
        if self.records and not step:
            log.warning("%s holds no checkpoint; starting from the beginning.", self.path)
        kept = [r for r in self.records if r.step <= step]
        self.records, self.newest = [], 0
        for record in kept:
            self._remember(record)
        if self._writes:
            self._open_files(step)
        self.begun = True

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends one record, to metrics.jsonl and TensorBoard."""
        if self._muted:
            return
        record = Record(
            step, split, round(self.seconds, 3), {k: float(v) for k, v in values.items()}
        )
        self._remember(record)
        if self._lines is None:
            return
        # TensorBoard first: a record that is read back on resume is then in both.
        self._board.scalars(step, {f"{split}/{name}": v for name, v in record.values.items()})
        self._lines.write(records.line_of(record))

    def save(self, step: int, state: State) -> None:
        """Checkpoints `state` with this step's metrics and the hooks' own memory."""
        newest = {name: points[-1] for name, points in self._history.items()}
        now = {name: value for name, (at, value) in newest.items() if at == step}
        hooks = {name: hook.snapshot() for name, hook in self.hooks.items()}
        self.checkpoints.save(step, state, now, hooks)
        self.saved = step

    def resume(self, step: int) -> Stop | None:
        """Gives the hooks what they left at `step`; what the first says that wants no more."""
        self.saved, saved, stop = step, self.checkpoints.hooks(step), None
        if lost := saved.keys() - self.hooks.keys():
            log.warning("no hook took up what these had kept: %s.", ", ".join(sorted(lost)))
        for name, hook in self.hooks.items():
            try:
                if name in saved:
                    hook.resume(saved[name])
            except Stop as raised:
                stop = stop or raised
        return stop

    def mute(self) -> None:
        """Ends writing: what hooks still hold is in the checkpoint, for the resumed run."""
        self._muted = True

    def forget(self, step: int, *splits: str) -> None:
        """Takes back the records of these splits at `step`."""
        kept = [r for r in self.records if r.step != step or r.split not in splits]
        if kept == self.records:
            return
        self.records, self._history, self.newest = [], {}, 0
        for record in kept:
            self._remember(record)
        if self._lines is not None:
            self._lines.close()
            self._rewrite()

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds a histogram to TensorBoard."""
        if self._board is not None and np.isfinite(values).all():
            self._board.histogram(step, name, values)

    def history(self, name: str) -> list[tuple[int, float]]:
        """Steps and values of e.g. `valid/accuracy`, oldest first."""
        return self._history.get(name, [])

    def finish(self, result: Result) -> None:
        """Writes result.json."""
        self.result = result
        if self._writes:
            records.write_json(self.path / records.RESULT, result)
            if self._board is not None:
                self._tell(result)
        for act in self.ended:
            act(result)

    def _tell(self, result: Result) -> None:
        """TensorBoard's HPARAMS tab gets the run's primary metric."""
        split, _, name = result.primary.partition("/")
        if result.finished and name in result.metrics.get(split, {}):
            value = float(result.metrics[split][name])
            self._board.scalars(result.steps, {f"result/{result.primary}": value})
            self._board.ended()

    def close(self) -> None:
        """Flushes everything; a failed checkpoint raises here."""
        try:
            self.checkpoints.close()
        finally:
            self._close_files()
            if self._lock is not None:
                os.close(self._lock)

    def _open_files(self, step: int) -> None:
        from jaxdl.train.board import Board  # protobuf is slow to import, and readers need none

        records.write_json(self.path / records.PASSPORT, self._stamped(step))
        self._rewrite()
        self._board = Board(self.path / records.TENSORBOARD, step)
        self._board.settings(settings(self.passport.experiment))

    def _stamped(self, step: int) -> Passport:
        """The run's passport with this sitting's stamp: what differs from the first one."""
        if not (self.path / records.PASSPORT).exists():
            return self.passport
        first, now = records.read_passport(self.path), asdict(self.passport)
        then = json.loads(json.dumps(asdict(first)))  # tuples as lists, as they will be read
        now = json.loads(json.dumps(now))
        changed = {name: now[name] for name in records.STAMPED if now[name] != then[name]}
        stamp = {"step": step} | changed
        sittings = (*first.sittings, stamp)
        return replace(first, experiment=now["experiment"], sittings=sittings)

    def _rewrite(self) -> None:
        draft = self.path / (records.METRICS + ".tmp")
        draft.write_text("".join(records.line_of(r) for r in self.records))
        draft.replace(self.path / records.METRICS)
        self._lines = (self.path / records.METRICS).open("a", buffering=1)

    def _close_files(self) -> None:
        if self._lines is not None:
            self._board.close()
            self._lines.close()
            self._lines = self._board = None

    def _remember(self, record: Record) -> None:
        self.records.append(record)
        self.newest = max(self.newest, record.step)
        for metric, value in record.values.items():
            name = f"{record.split}/{metric}"
            self.latest[name] = value
            self._history.setdefault(name, []).append((record.step, value))


def open_run(directory: Path, passport: Passport, primary: str, mode: str) -> RunDir:
    """The run directory of this passport's experiment, new or to be resumed; all processes of a run
    open it together.

    Raises:
        InputError: it cannot be written, another run's process trains in it, or the processes do
        not all see it.
    """
    lock = parallel.decided(lambda: _made(directory))
    seen = parallel.gathered("yes" if directory.is_dir() else "")
    if blind := [str(index) for index, answer in enumerate(seen) if not answer]:
        raise InputError(
            f"{directory} does not exist for process {', '.join(blind)}; choose, with --run-dir, a "
            "place on a file system that all processes share."
        )
    checkpoints = Checkpoints(directory / records.CHECKPOINTS, primary=primary, mode=mode)
    return RunDir(directory, passport, checkpoints, lock if parallel.is_first() else None)


def _made(directory: Path) -> int:
    """Makes the directory; the descriptor of its lock."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write the run directory {directory}: {error.strerror}; choose another with "
            "--run-dir."
        ) from None
    return _lock(directory)


def _lock(directory: Path) -> int:
    """A descriptor that keeps other processes out of the run until it is closed."""
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(
            f"another process trains in {directory}; wait for it, or choose another --run-dir."
        ) from None
    return lock


def check_same(directory: Path, new: Passport) -> Passport | None:
    """The passport of the run in `directory`, if there is one; nothing is touched.

    Raises:
        InputError: the directory belongs to another experiment, other data or something else.
    """
    if not (directory / records.PASSPORT).exists():
        if directory.is_dir() and any(directory.iterdir()):
            raise InputError(f"{directory} is not empty and not a run's; choose another --run-dir.")
        return None
    old = records.read_passport(directory)
    if old.digest != new.digest:
        changes = diff(load(old.experiment), load(new.experiment))
        told = [f"{path} {a!r} -> {b!r}" for path, (a, b) in changes.items() if not _free(path)]
        raise InputError(
            f"{directory} holds a run of another experiment ({'; '.join(told[:5])}); choose "
            "another --run-dir."
        )
    for split, fingerprint in new.data.items():
        if old.data.get(split) != fingerprint:
            raise InputError(
                f"the {split} data differ from those the run in {directory} began with "
                f"(fingerprint {fingerprint[:12]}, then {str(old.data.get(split))[:12]}); restore "
                "the data or choose another --run-dir."
            )
    return old


def _free(path: str) -> bool:
    """Fields that may change between sittings of one run."""
    return path.split(".")[0] in ("steps", "hooks")
