"""SIGTERM and Ctrl-C end a run after the update in progress, with a good checkpoint.

Of several processes one gets the signal, and all must end after the same update. jax's preemption
service, which has taken SIGTERM over by then, finds that update, without a word between hosts in
the others; Ctrl-C is passed on to it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxdl import parallel
from jaxdl.core.hook import Stop
from jaxdl.core.task import Metric

log = logging.getLogger("jaxdl")


class Signals:
    """A hook that ends the run once a signal has come: exit code 75 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self, several: bool):
        self.received: int | None = None
        self._several = several  # whether other processes may have got the signal
        self._calls = 0

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Metric]) -> None:
        """Stops the run when asked to."""
        received = self._received_by_any() if self._several else self.received
        if received == signal.SIGTERM:
            raise Stop(f"SIGTERM after update {step}", status="preempted", code=75)
        if received == signal.SIGINT:
            raise Stop(f"Ctrl-C after update {step}", status="preempted", code=130)

    def close(self) -> None:
        """Nothing to do."""

    def _received_by_any(self) -> int | None:
        """The signal for which all processes end in this call, the same in each of them."""
        self._calls += 1
        if not multihost_utils.reached_preemption_sync_point(self._calls):
            return None
        said = parallel.gathered(str(self.received or signal.SIGTERM.value))
        return signal.SIGINT if str(signal.SIGINT.value) in said else signal.SIGTERM


@contextmanager
def signals() -> Iterator[Signals]:
    """A `Signals` hook whose handlers are in place inside the block (in the main thread only)."""
    several = jax.process_count() > 1
    hook = Signals(several)

    def handle(number, frame):
        hook.received = number
        log.warning("%s: finishing this update, then saving.", signal.Signals(number).name)
        # Whoever asks twice does not want to wait.
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield hook
        return
    ours = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
    before = {s: signal.signal(s, handle) for s in ours}
    try:
        yield hook
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
