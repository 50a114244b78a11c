"""What `jaxdl ablate` shows: its plan, how far it is, and what is left."""

from __future__ import annotations

import math
import re
import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jaxdl.core.errors import InputError
from jaxdl.search import Ablation, Cell, Plan

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COLUMNS = 8
"""Most seeds that get a column each."""
REFRESH = 1.0
"""Seconds between two looks at the runs."""


def terminal(stderr: bool) -> Console:
    """Where it is shown; lines of a log are not wrapped."""
    wraps = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, soft_wrap=not wraps)


def seconds_of(text: str) -> float:
    """Seconds that `90s`, `1h30m` or `2.5h` tell.

    Raises: InputError where it is no time.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise InputError(f"{text!r} is no time; write it like 90s, 30m, 1h30m or 2d.")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def describe(plan: Plan, console: Console, jobs: int) -> None:
    """The plan before anything is started: its runs, which are finished, and the time."""
    console.print(_grid(plan))
    waiting, done = len(plan.of("waiting")), len(plan.of("done"))
    left = plan.left(jobs)
    time_ = f"about {duration(left)}" if left is not None else "time is known after the first"
    finished = f"{done} finished, " if done else ""
    tail = f"{waiting} to do, {time_}" if waiting else "nothing to do"
    console.print(
        f"{len(plan.cells)} runs of {plan.file}: {finished}{tail}", highlight=False, soft_wrap=True
    )


def print_left(ablation: Ablation, console: Console) -> None:
    """Which runs failed and why, and what the same command would go on with."""
    plan = ablation.plan
    for cell in plan.of("failed"):
        console.print(
            f"[red]failed:[/red] {escape(cell.name)}: {escape(cell.error)}", soft_wrap=True
        )
        console.print(f"  {plan.log(cell)}", style="dim")
    if waiting := plan.of("waiting"):
        why = "the budget has no room for more" if ablation.spent else "stopped"
        left = plan.left(ablation.pool.size, ablation.overhead)
        time_ = f", about {duration(left)}" if left is not None else ""
        console.print(
            f"{why}; {len(waiting)} of {len(plan.cells)} runs are left{time_}. The same command "
            "goes on.",
        )


class Watcher:
    """Shows an ablation at work: a live table on a terminal, a line per ended run elsewhere."""

    def __init__(self, ablation: Ablation):
        self._ablation, self._plan = ablation, ablation.plan
        self._console = terminal(stderr=True)
        self._live: Live | None = None
        self._idle = False
        self._shown = 0.0

    def __enter__(self) -> Watcher:
        """Opens the table."""
        if sys.stderr.isatty() and self._plan.of("waiting"):
            # No thread of its own: children are forked here.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the table away."""
        if self._live:
            self._live.stop()

    def __call__(self, cell: Cell | None) -> None:
        """Tells of a run that has ended; keeps the table fresh."""
        if cell is not None:
            self._console.print(self._line(cell))
        idle = cell is None and not self._ablation.running
        if idle and not self._idle and not self._live:
            self._console.print(self._foot())
        self._idle = idle
        if self._live and (cell or time.monotonic() - self._shown > REFRESH):
            self._live.update(Group(_grid(self._plan), self._foot()), refresh=True)
            self._shown = time.monotonic()

    def _line(self, cell: Cell) -> str:
        ended = len(self._plan.of("done", "failed"))
        told = {
            "done": f"{self._plan.primary} {cell.value:.4f} in {cell.seconds:.1f} s",
            "failed": f"[red]failed[/red]: {escape(cell.error)}",
            "waiting": "interrupted",
        }[cell.state]
        left = self._ablation.left
        rest = f", about {duration(left)} left" if left and not self._live else ""
        return f"{ended}/{len(self._plan.cells)} {escape(cell.name)}: {told}{rest}"

    def _foot(self) -> Text:
        plan, left = self._plan, self._ablation.left
        ended = f"{len(plan.of('done', 'failed'))} of {len(plan.cells)} runs"
        if self._ablation.pool.received:
            return Text(f"{ended}; stopping: runs save. Once more ends them at once.")
        if not self._ablation.running:
            return Text(f"{ended}; waiting for another process that trains one of them.")
        return Text(ended + (f", about {duration(left)} left" if left is not None else ""))


def _grid(plan: Plan) -> Table:
    """Variants by seeds; counts where the seeds are many."""
    table = Table("variant", box=None, pad_edge=False, title_justify="left")
    few = len(plan.seeds) <= COLUMNS
    heads = [f"seed {seed}" for seed in plan.seeds] if few else ["finished", "running", "failed"]
    for head in heads:
        table.add_column(head, justify="right")
    for name in plan.variants:
        cells = [cell for cell in plan.cells if cell.variant == name]
        table.add_row(escape(name), *(map(_word, cells) if few else _counts(cells)))
    return table


def _counts(cells: list[Cell]) -> list[str]:
    states = [cell.state for cell in cells]
    running = [_word(cell) for cell in cells if cell.state == "running"]
    return [f"{states.count('done')}/{len(cells)}", " ".join(running), str(states.count("failed"))]


def _word(cell: Cell) -> str:
    """A cell in a few characters."""
    if cell.state == "running":
        step, value = cell.progress()
        known = "" if math.isnan(value) else f" {value:.4g}"
        return f"[cyan]{step}/{cell.steps}{known}[/cyan]"
    if cell.state == "done":
        return "done" if math.isnan(cell.value) else f"{cell.value:.4g}"
    return "[red]failed[/red]" if cell.state == "failed" else "[dim]to do[/dim]"
