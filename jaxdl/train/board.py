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
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboardX.record_writer import masked_crc32c

BINS = 30
"""Of a histogram."""


class Board:
    """One event file of a run; what earlier ones hold after step `start` no longer counts."""

    def __init__(self, directory: Path, start: int):
        directory.mkdir(exist_ok=True)
        number = len(list(directory.iterdir()))  # tells apart the files of one second
        path = directory / f"events.out.tfevents.{int(time.time())}.{number}"
        self._first = not number
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

    def settings(self, values: Mapping[str, str | float]) -> None:
        """Says, for the HPARAMS tab, what the run was set to; once in the life of a run."""
        if self._first:
            start = SessionStartInfo(start_time_secs=time.time())
            for name, value in values.items():
                kind = "bool" if isinstance(value, bool) else "number"
                setattr(
                    start.hparams[name],
                    "string_value" if isinstance(value, str) else f"{kind}_value",
                    value,
                )
            self._plugin("session_start_info", start)

    def ended(self) -> None:
        """Says there that it went well."""
        end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=time.time())
        self._plugin("session_end_info", end)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _plugin(self, name: str, message: Any) -> None:
        content = HParamsPluginData(version=0, **{name: message}).SerializeToString()
        found = summary.Summary()
        value = found.value.add(tag=f"_hparams_/{name}")
        value.metadata.plugin_data.plugin_name = "hparams"
        value.metadata.plugin_data.content = content
        self._write(Event(summary=found))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        size = struct.pack("<Q", len(data))
        crcs = (struct.pack("<I", masked_crc32c(part)) for part in (size, data))
        self._file.write(b"".join((size, next(crcs), data, next(crcs))))
