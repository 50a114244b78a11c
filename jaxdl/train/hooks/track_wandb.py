"""Weights & Biases."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxdl import parallel
from jaxdl.core.errors import InputError
from jaxdl.core.hook import Hook
from jaxdl.core.records import Record, Result
from jaxdl.train.hooks.track import Idle, Mirror


@dataclass(frozen=True)
class WandB:
    """Mirrors the run in a project of Weights & Biases: settings, records, result and pictures.

    `offline` needs no account and writes into the run directory; `wandb sync --append` sends it.
    A resumed run goes on under the same id.
    """

    project: str
    mode: Literal["offline", "online"] = "offline"
    entity: str = ""

    def check(self) -> None:
        """Refuses to go on without the library."""
        if importlib.util.find_spec("wandb") is None:
            raise InputError("WandB needs the package wandb: pip install 'jaxdl[track]'.")

    def open(self, program: Any, run: Any) -> Hook:
        """The hook."""
        if not parallel.is_first():
            return Idle()
        target = f"wandb {self.entity}/{self.project}"
        return Mirror("WandB", target, _Client(self, run.path), run)


class _Client:
    """See `jaxdl.train.hooks.track.Client`."""

    def __init__(self, config: WandB, directory: Path):
        self._config, self._directory = config, directory

    def open(self, known: str | None, config: Mapping[str, Any]) -> str:
        import wandb

        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity or None,
            mode=self._config.mode,
            dir=self._directory,
            name=f"{self._directory.parent.name}/{self._directory.name}",
            id=known,
            resume="allow" if known and self._config.mode == "online" else None,
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
            reinit="create_new",
        )
        # Its own step refuses what is written late, as the records of training are.
        self._run.define_metric("*", step_metric="step")
        return self._run.id

    def send(self, found: list[tuple[float, Record]]) -> None:
        for _, record in found:
            values = {f"{record.split}/{name}": value for name, value in record.values.items()}
            self._run.log({"step": record.step, **values})

    def finish(self, result: Result, files: list[Path]) -> None:
        final = {
            f"result/{s}/{k}": v for s, many in result.metrics.items() for k, v in many.items()
        }
        self._run.summary.update(final | {"status": result.status, "seconds": result.seconds})
        for path in files:
            self._run.save(str(path), base_path=str(self._directory), policy="now")
        self._run.finish(exit_code=0 if result.finished or result.status == "preempted" else 1)
