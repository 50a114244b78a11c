"""TensorBoard events, each in the file when the call returns.

tensorboardX's SummaryWriter hands them to a thread and a queue: a kill loses two minutes of them, a
full disk ends the thread and then blocks training, and a sitting within the same second overwrites
the file of the one before.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

BINS = 30
"""Of a histogram."""


class Board:
    """One event file of a run; what earlier ones hold after step `start` no longer counts."""

    def __init__(self, directory: Path, start: int):
        directory.mkdir(exist_ok=True)
        number = len(list(directory.iterdir()))  # tells apart the files of one second
        path = directory / f"events.out.tfevents.{int(time.time())}.{number}"
        self._file = path.open("xb", buffering=0)
        self._write(Event(file_version="brain.Event:2"))
        if number:
            self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values by name."""
        found = summary.Summary()
        for name, value in values.items():
            found.value.add(tag=name, simple_value=value)
        self._write(Event(step=step, summary=found))

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds the histogram of finite `values`."""
        self._write(Event(step=step, summary=summary.histogram(name, values, BINS)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        size = struct.pack("<Q", len(data))
        crcs = (struct.pack("<I", masked_crc32c(part)) for part in (size, data))
        self._file.write(b"".join((size, next(crcs), data, next(crcs))))
