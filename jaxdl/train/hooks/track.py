"""A run's records in an experiment tracker, sent by a thread that training never waits for."""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxdl.core import records
from jaxdl.core.records import Record, Result
from jaxdl.core.settings import settings

log = logging.getLogger("jaxdl")
EVERY_S = 5.0
"""Records are sent together, this many seconds apart."""
PATIENCE_S = 120.0
"""How long the end of a run waits for the tracker."""
ARTIFACTS = (records.PASSPORT, "*.png")


class Client(Protocol):
    """One tracker's run; all of it is called from one thread and may fail."""

    def open(self, known: str | None, config: Mapping[str, Any]) -> str:
        """Opens the run `known`, or a new one with these settings; its id."""
        ...

    def send(self, found: list[tuple[float, Record]]) -> None:
        """Adds records, each with the second of the epoch in which it was written."""
        ...

    def finish(self, result: Result, files: list[Any]) -> None:
        """Adds how the run ended and its files, and closes."""
        ...


class Mirror:
    """The hook of a tracker. It sends what has been written to the run, each record once.

    `tracking.json` of the run keeps the tracker's id of it and, by split, the last step that was
    sent: a resumed run goes on in the same place, and what it repeats after a crash is not sent
    again. A failure of the tracker is a warning; training goes on without it.
    """

    def __init__(self, name: str, target: str, client: Client, run: Any):
        self._name, self._target, self._client, self._run = name, target, client, run
        self._seen, self._asked = 0, time.monotonic()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._sent: dict[str, int] = {}
        self._id: str | None = None
        self._queue.put(self._open)
        self._thread.start()
        run.ended.append(self._finish)

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        """Hands over what is new, at most every few seconds."""
        if len(self._run.records) == self._seen:
            return
        now = time.monotonic()
        if now - self._asked >= EVERY_S:
            self._asked = now
            self._hand_over()

    def close(self) -> None:
        """Nothing to do: what is left goes with the result."""

    def _hand_over(self, until: float = math.inf) -> None:
        if not self._thread.is_alive():  # it failed
            return
        # All of them: a resumed run takes back some, and `_send` knows what has been sent.
        found = [record for record in self._run.records if record.step <= until]
        self._seen = len(self._run.records)
        began = time.time() - self._run.seconds
        self._queue.put(lambda: self._send(found, began))

    def _finish(self, result: Result) -> None:
        self._hand_over(result.steps)  # what a crash cut short after these is written anew
        files = sorted(f for pattern in ARTIFACTS for f in self._run.path.glob(pattern))
        self._queue.put(lambda: self._client.finish(result, files))
        self._queue.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            log.warning(
                "%s has not answered for %.0f s; it lacks what came last.", self._name, PATIENCE_S
            )

    def _work(self) -> None:
        while act := self._queue.get():
            try:
                act()
            except Exception as error:  # whatever it is, the run matters more
                log.warning("%s: %s; the run goes on without it.", self._name, error)
                return

    def _open(self) -> None:
        saved = self._read().get(self._target, {})
        self._sent = dict(saved.get("sent", {}))
        self._id = self._client.open(saved.get("id"), settings(self._run.passport.experiment))
        self._keep()

    def _send(self, found: list[Record], began: float) -> None:
        new = [r for r in found if r.step > self._sent.get(r.split, -1)]
        if not new:
            return
        self._client.send([(began + r.time, r) for r in new])
        self._sent |= {r.split: r.step for r in new}
        self._keep()

    def _keep(self) -> None:
        with _LOCK:  # a run may have several trackers
            kept = self._read() | {self._target: {"id": self._id, "sent": self._sent}}
            records.write_json(self._run.path / records.TRACKING, kept)

    def _read(self) -> dict[str, Any]:
        path = self._run.path / records.TRACKING
        return json.loads(path.read_text()) if path.exists() else {}


_LOCK = threading.Lock()


class Idle:
    """The hook of the processes that do not write."""

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
