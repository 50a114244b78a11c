"""Progress of a run on stderr: a live bar on a terminal, a line per record elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column


class ProgressHook:
    """Shows step, the newest losses, the rate and the time left."""

    def __init__(self, steps: int, run: Any):
        self._run, self._steps, self._seen = run, steps, len(run.records)
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            width = len(f"{steps}/{steps}")
            self._bar = Progress(
                BarColumn(bar_width=16),
                MofNCompleteColumn(table_column=Column(min_width=width)),
                TextColumn("{task.fields[told]}", table_column=Column(no_wrap=True)),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True, table_column=Column(min_width=5)),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(
                "", total=steps, completed=run.saved or 0, told="compiling"
            )
            self._bar.start()

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Any]) -> None:
        """Moves the bar; tells what was written since the last update."""
        fresh, self._seen = self._run.records[self._seen :], len(self._run.records)
        if self._bar is not None:
            told = {"told": self._told()} if fresh or step == 1 else {}
            self._bar.update(self._task, completed=step, **told)
            return
        for record in fresh:
            if record.split != "perf":
                shown = "  ".join(f"{k} {v:.4g}" for k, v in record.values.items())
                print(f"{record.step}/{self._steps} {record.split}  {shown}", file=sys.stderr)

    def close(self) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()

    def _told(self) -> str:
        latest = self._run.latest
        losses = [f"{n.replace('train/', '')} {v:.4g}" for n, v in latest.items() if _is_loss(n)]
        primary = [f"{n} {v:.4g}" for n, v in latest.items() if n.startswith("valid/")][:1]
        rate = latest.get("perf/examples_per_second")
        return "  ".join([*losses, *primary, *([f"{rate:,.0f}/s"] if rate else [])])


def _is_loss(name: str) -> bool:
    return name.startswith("train/") and name.split("/")[1].split(".")[-1] == "loss"
