"""MLflow."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdl import parallel
from jaxdl.core.errors import InputError
from jaxdl.core.hook import Hook
from jaxdl.core.records import Record, Result
from jaxdl.train.hooks.track import Idle, Mirror

TOGETHER = 900
"""Values in one request; a server takes 1000."""
STATUS = {"done": "FINISHED", "stopped": "FINISHED", "preempted": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class MLflow:
    """Mirrors the run in an experiment of MLflow: settings, records, result and pictures.

    `uri` is a server or a database, e.g. `sqlite:///mlflow.db`. A resumed run goes on in the same
    run of MLflow.
    """

    uri: str
    experiment: str

    def check(self) -> None:
        """Refuses to go on without the library."""
        if importlib.util.find_spec("mlflow") is None:
            raise InputError("MLflow needs the package mlflow-skinny: pip install 'jaxdl[track]'.")

    def open(self, program: Any, run: Any) -> Hook:
        """The hook."""
        if not parallel.is_first():
            return Idle()
        target = f"mlflow {self.uri} {self.experiment}"
        return Mirror("MLflow", target, _Client(self, run.path), run)


class _Client:
    """See `jaxdl.train.hooks.track.Client`."""

    def __init__(self, config: MLflow, directory: Path):
        self._config, self._directory = config, directory

    def open(self, known: str | None, config: Mapping[str, Any]) -> str:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(self._config.uri)
        if known:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return known
        found = self._client.get_experiment_by_name(self._config.experiment)
        place = found.experiment_id if found else self._created()
        name = f"{self._directory.parent.name}/{self._directory.name}"
        self._id = self._client.create_run(place, run_name=name).info.run_id
        params = [Param(key, str(value)) for key, value in config.items()]
        for i in range(0, len(params), 100):  # the most a request takes
            self._client.log_batch(self._id, params=params[i : i + 100])
        return self._id

    def send(self, found: list[tuple[float, Record]]) -> None:
        from mlflow.entities import Metric

        values = [
            Metric(f"{record.split}/{name}", value, int(1000 * when), record.step)
            for when, record in found
            for name, value in record.values.items()
        ]
        for i in range(0, len(values), TOGETHER):
            self._client.log_batch(self._id, metrics=values[i : i + TOGETHER])

    def finish(self, result: Result, files: list[Path]) -> None:
        for split, many in result.metrics.items():
            for name, value in many.items():
                self._client.log_metric(
                    self._id, f"result/{split}/{name}", value, step=result.steps
                )
        for path in files:
            self._client.log_artifact(self._id, str(path))
        self._client.set_terminated(self._id, STATUS.get(result.status, "FAILED"))

    def _created(self) -> str:
        return self._client.create_experiment(self._config.experiment)
