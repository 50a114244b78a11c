"""The run directory: opened once, written to by process 0, read back on resume."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.core import records
from jaxdl.core.change import diff
from jaxdl.core.codec import load
from jaxdl.core.errors import InputError
from jaxdl.core.records import Passport, Record, Result
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.state import State


class RunDir:
    """One run on disk. Implements `jaxdl.core.hook.Run`."""

    def __init__(self, directory: Path, passport: Passport, checkpoints: Checkpoints):
        self.path, self.passport, self.checkpoints = directory, passport, checkpoints
        self.result = records.read_result(directory)
        self.records = list(records.read_records(directory))
        self.latest: dict[str, float] = {}
        self.hooks: dict[str, Any] = {}
        self.saved: int | None = None
        self._writes = jax.process_index() == 0
        self._start = time.monotonic() - (self.result.seconds if self.result else 0.0)
        self._lines = self._board = None
        self._muted = False

    @property
    def seconds(self) -> float:
        """Time spent training, earlier sittings included."""
        return time.monotonic() - self._start

    def begin(self, step: int) -> None:
        """Prepares to write what follows `step`: later records, of a sitting that was lost, go."""
        from tensorboardX import (
            SummaryWriter,  # protobuf is slow to import, and readers need none of it
        )

        self.records = [r for r in self.records if r.step <= step]
        for record in self.records:
            self._remember(record)
        if not self._writes:
            return
        draft = self.path / (records.METRICS + ".tmp")
        draft.write_text("".join(records.line_of(r) for r in self.records))
        draft.replace(self.path / records.METRICS)
        records.write_json(self.path / records.PASSPORT, self.passport)
        self._lines = (self.path / records.METRICS).open("a", buffering=1)
        board = self.path / records.TENSORBOARD
        self._board = SummaryWriter(str(board), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends one record, to metrics.jsonl and TensorBoard."""
        if self._muted:
            return
        record = Record(
            step, split, round(self.seconds, 3), {k: float(v) for k, v in values.items()}
        )
        self.records.append(record)
        self._remember(record)
        if self._lines is None:
            return
        self._lines.write(records.line_of(record))
        for name, value in record.values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def save(self, step: int, state: State) -> None:
        """Checkpoints `state` with this step's metrics and the hooks' own memory."""
        now = {
            f"{r.split}/{k}": v for r in self.records if r.step == step for k, v in r.values.items()
        }
        hooks = {name: hook.snapshot() for name, hook in self.hooks.items()}
        self.checkpoints.save(step, state, now, hooks)
        self.saved = step

    def resume(self, step: int) -> None:
        """Gives the hooks what they left at `step`."""
        self.saved, saved = step, self.checkpoints.hooks(step)
        for name, hook in self.hooks.items():
            if name in saved:
                hook.resume(saved[name])

    def mute(self) -> None:
        """Ends writing: what hooks still hold is in the checkpoint, and the resumed run will
        write it."""
        self._muted = True

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds a histogram to TensorBoard."""
        if self._board is not None and np.isfinite(values).all():
            self._board.add_histogram(name, values, step)

    def history(self, name: str) -> list[tuple[int, float]]:
        """Steps and values of e.g. `valid/accuracy`, oldest first."""
        split, _, metric = name.partition("/")
        return [
            (r.step, r.values[metric])
            for r in self.records
            if r.split == split and metric in r.values
        ]

    def finish(self, result: Result) -> None:
        """Writes result.json."""
        self.result = result
        if self._writes:
            records.write_json(self.path / records.RESULT, result)

    def close(self) -> None:
        """Flushes everything; a failed checkpoint raises here."""
        try:
            self.checkpoints.close()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._board.close()
            self._lines = self._board = None

    def _remember(self, record: Record) -> None:
        self.latest |= {f"{record.split}/{name}": value for name, value in record.values.items()}


def open_run(directory: Path, passport: Passport, *, primary: str, mode: str) -> RunDir:
    """The run directory of this passport's experiment, new or to be resumed.

    Raises:
        InputError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write the run directory {directory}: {error.strerror}; choose another with "
            f"--run-dir."
        ) from None
    checkpoints = Checkpoints(directory / records.CHECKPOINTS, primary=primary, mode=mode)
    return RunDir(directory, passport, checkpoints)


def check_same(directory: Path, new: Passport) -> Result | None:
    """How the run in `directory` ended, if one did; nothing is touched.

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
            f"another --run-dir."
        )
    for split, fingerprint in new.data.items():
        if old.data.get(split) != fingerprint:
            raise InputError(
                f"the {split} data differ from those the run in {directory} began with "
                f"(fingerprint "
                f"{fingerprint[:12]}, then {str(old.data.get(split))[:12]}); restore the data or "
                f"choose "
                "another --run-dir."
            )
    return records.read_result(directory)


def _free(path: str) -> bool:
    """Fields that may change between sittings of one run."""
    return path.split(".")[0] in ("steps", "hooks")
