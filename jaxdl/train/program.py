"""What `build` makes of an experiment: compiled functions and the shapes they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdl.core.experiment import Experiment
from jaxdl.core.hook import Hook
from jaxdl.core.task import Batch, Metric, Player
from jaxdl.parallel import KernelChoice
from jaxdl.train.state import State


@dataclass(frozen=True)
class Program:
    """An experiment on a mesh. Train, eval, plan, bench, profile and replay all use this one
    object."""

    experiment: Experiment
    players: tuple[Player, ...]
    init: Callable[[], State]
    """The sharded state before the first update."""
    step: Any
    """Jitted `(state, batch) -> (state, metrics)`; the state is donated, the metrics are `Packed`.
    `.lower(abstract, batch)` works, but not in the bit-identical mode (`Deterministic`)."""
    evaluate: Callable[[State, Batch, int], Mapping[str, Metric]]
    """Metric states of evaluation batch i, with averaged parameters where the state holds them."""
    predict: Callable[[State, Batch, int], Any]
    """The task's predictions for evaluation batch i."""
    abstract: State
    """Shapes, dtypes and shardings of the state."""
    batch: Batch
    """Those of a training batch."""
    eval_batch: Batch
    """Those of an evaluation batch, `mask` included."""
    mesh: Mesh
    rules: Mapping[str, Any]
    kernels: tuple[KernelChoice, ...] = ()
    """By what the kernels in `step` and `evaluate` run."""

    @property
    def emulated(self) -> bool:
        """Whether one CPU plays several devices: XLA runs them on one pool of threads, and steps in
        flight there may wait for one another for ever.
        """
        return self.mesh.size > 1 and self.mesh.devices.flat[0].platform == "cpu"

    def settle(self, results: Any) -> None:
        """Waits for `results` where devices are emulated."""
        if self.emulated:
            jax.block_until_ready(results)

    def pacing(self) -> list[Hook]:
        """A hook that waits for each update where devices are emulated, and none elsewhere."""

        def wait(step, state, metrics):
            jax.block_until_ready(metrics)

        return [wait] if self.emulated else []
