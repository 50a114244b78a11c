"""The seams of the loop: hooks, the run directory they write to, and the way to end a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from jaxdl.core.task import Metric


class Hook(Protocol):
    """Called after every update, in declared order; must not keep `state`, which is donated."""

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Metric]) -> Any | None:
        """A returned State replaces the current one; the loop re-reads step and cursor from it."""
        ...

    def close(self) -> None:
        """Called once, in a `finally`."""
        ...


class HookConfig(Protocol):
    """A hook as the experiment writes it: a frozen dataclass that opens the hook for one run."""

    def open(self, program: Any, run: Run) -> Hook:
        """The hook itself, bound to a program and a run directory."""
        ...


class Run(Protocol):
    """The run directory as hooks see it."""

    latest: Mapping[str, float]
    """The last value of each name, e.g. `valid/accuracy`."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends one record of `split` at `step`."""
        ...


class Stop(Exception):
    """Raised by a hook or a signal: end now, with everything saved."""

    def __init__(self, reason: str, *, status: str = "stopped", code: int = 0):
        """`status` and the exit `code` that result.json and the shell get."""
        super().__init__(reason)
        self.status, self.code = status, code
