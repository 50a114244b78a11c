"""SIGTERM and Ctrl-C end a run after the update in progress, with a good checkpoint."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxdl.core.hook import Stop
from jaxdl.core.task import Metric

log = logging.getLogger("jaxdl")


class Signals:
    """A hook that ends the run once a signal has come: exit code 75 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self):
        self.received: int | None = None

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Metric]) -> None:
        """Stops the run when asked to."""
        if self.received == signal.SIGTERM:
            raise Stop(f"SIGTERM after update {step}", status="preempted", code=75)
        if self.received == signal.SIGINT:
            raise Stop(f"Ctrl-C after update {step}", status="preempted", code=130)

    def close(self) -> None:
        """Nothing to do."""


@contextmanager
def signals() -> Iterator[Signals]:
    """A `Signals` hook whose handlers are in place inside the block (in the main thread only)."""
    hook = Signals()

    def handle(number, frame):
        hook.received = number
        log.warning("%s: finishing this update, then saving.", signal.Signals(number).name)
        # Whoever asks twice does not want to wait.
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )

    if threading.current_thread() is not threading.main_thread():
        yield hook
        return
    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield hook
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
