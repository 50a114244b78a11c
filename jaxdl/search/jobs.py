"""Child processes, a few at a time, that end when this process is asked to end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Pool:
    """Child processes, each in a numbered slot: its share of the machine."""

    def __init__(self, size: int):
        self.size = size
        self.received: int | None = None
        """The signal that asked for the end."""
        self._children: dict[int, subprocess.Popen] = {}

    def __len__(self) -> int:
        """How many run."""
        return len(self._children)

    def free(self) -> list[int]:
        """Slots in which nothing runs."""
        return [slot for slot in range(self.size) if slot not in self._children]

    def put(self, slot: int, child: subprocess.Popen) -> None:
        """Watches `child`, the leader of a process group, in `slot`."""
        self._children[slot] = child
        if self.received:  # the signal came while it was being started
            child.terminate()

    def ended(self) -> Iterator[tuple[int, int]]:
        """Slot and exit code, below zero for a signal, of those that have ended; each once."""
        for slot, child in list(self._children.items()):
            if (code := child.poll()) is not None:
                _kill_group(child)  # what a killed process leaves behind
                del self._children[slot]
                yield slot, code

    def stop(self, number: int) -> None:
        """Tells all to save and end; asked again, kills them."""
        again, self.received = self.received is not None, self.received or number
        for child in self._children.values():
            if again:
                _kill_group(child)
            else:
                child.terminate()

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Inside the block SIGTERM and Ctrl-C stop the children; after it none is left."""
        signals = (signal.SIGTERM, signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            signals = ()
        before = {s: signal.signal(s, lambda number, _: self.stop(number)) for s in signals}
        try:
            yield
        finally:
            for child in self._children.values():
                _kill_group(child)
                child.wait()
            for number, handler in before.items():
                signal.signal(number, handler)


def _kill_group(child: subprocess.Popen) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
