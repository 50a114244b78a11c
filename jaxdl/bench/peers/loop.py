"""One linear layer, 8 inputs to 1, on batches of 8: all that is left is what a framework adds.

`bare` is a jitted step in a `for`; `ours` is jaxdl's loop with as much of a run around it as asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl import data
from jaxdl.bench.workloads import DECAY, LINE_BATCH, LR, line
from jaxdl.core import Experiment, Player, Sums
from jaxdl.core.records import Passport
from jaxdl.core.task import Aux, Batch, Key, Metric, ModelState, Params
from jaxdl.data import ArraySource, Splits
from jaxdl.metrics import Mean
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW, Constant
from jaxdl.tasks import module
from jaxdl.train import Log, Program, Save, State, build, training_batches
from jaxdl.train.loop import train
from jaxdl.train.passport import issue
from jaxdl.train.rundir import open_run
from jaxdl.train.signals import signals

HOOKS = {"log": Log(every=50), "save": Save(every=500)}
EPOCH = 4096
"""Batches in the data that feeding goes through."""


@dataclass(frozen=True)
class Regression:
    """Mean squared error of `model(x)` [B, 1] against `y` [B, 1]."""

    primary: str = "valid/loss"
    mode: str = "min"

    def init(self, model: Any, key: Key, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters of `model`."""
        return module.init(model, key, batch["x"])

    def players(self, model: Any) -> tuple[Player, ...]:
        """One player over all parameters."""

        def loss(params: Params, state: ModelState, batch: Batch, key: Key) -> tuple[Sums, Aux]:
            out, state = module.train(model, params, state, key, batch["x"])
            return _squares(out, batch), (state, {})

        return (Player("main", loss),)

    def evaluate(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> Mapping[str, Metric]:
        """`loss`."""
        del key
        out = module.infer(model, params, state, batch["x"])
        return {"loss": Mean.from_sums(_squares(out, batch))}

    def predict(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> jax.Array:
        """Predictions [B, 1]."""
        del key
        return module.infer(model, params, state, batch["x"])


@dataclass(frozen=True)
class Line(Splits):
    """Random x [8], and y [1], the sum of x."""

    batch: int = LINE_BATCH

    def train(self) -> ArraySource:
        """The examples."""
        return _source()


def bare() -> tuple[Callable[[int], float], dict[str, Any]]:
    """The step by hand, on a resident batch: what cannot be saved."""
    tx = optax.adamw(LR, weight_decay=DECAY)
    params = {"kernel": jnp.zeros((8, 1)), "bias": jnp.zeros(1)}
    state, batch = (params, tx.init(params)), jax.device_put(line(1))

    def step(state, batch):
        (params, opt), (x, y) = state, batch

        def loss(params):
            return jnp.mean((x @ params["kernel"] + params["bias"][None] - y) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), value

    jitted = jax.jit(step, donate_argnums=0)

    def run(n: int) -> float:
        nonlocal state
        for _ in range(n):
            state, value = jitted(state, batch)
        jax.block_until_ready(state)
        return float(value)

    return run, {}


def step() -> tuple[Callable[[int], None], dict[str, Any]]:
    """jaxdl's step on a resident batch in a bare `for`."""
    program = build(experiment(()), jax.devices()[:1])
    state, batch = program.init(), training_batches(program)(0)

    def run(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state, _ = program.step(state, batch)
        jax.block_until_ready(state)

    return run, {}


def ours(
    hooks: Sequence[str] = (), feeding: bool = False
) -> tuple[Callable[[int], None], dict[str, Any]]:
    """jaxdl's loop in a run directory, with these of `HOOKS`, opened and closed in every turn.

    The batch is resident, unless `feeding`: then it is loaded and prefetched as in a run.
    """
    exp = experiment(hooks)
    program = build(exp, jax.devices()[:1])
    passport = issue(exp, "", list(program.mesh.devices.flat))
    state, load = program.init(), training_batches(program)
    resident = load(0)

    def run(n: int) -> None:
        nonlocal state
        with ExitStack() as stack:
            batches = _always(resident)
            if feeding:
                batches = stack.enter_context(closing(data.prefetch(load)))
            state = _run(program, passport, state, batches, int(state.step) + n)
            jax.block_until_ready(state)

    return run, {}


def experiment(hooks: Sequence[str]) -> Experiment:
    """One linear layer, as a user would write it."""
    return Experiment(
        model=MLP(widths=(), classes=1),
        task=Regression(),
        data=Line(),
        optim=AdamW(LR, decay=DECAY, no_decay=(), schedule=Constant()),
        steps=1_000_000,
        hooks=tuple(HOOKS[name] for name in hooks),
    )


def _run(
    program: Program,
    passport: Passport,
    state: State,
    batches: Callable[[int], Batch],
    steps: int,
) -> State:
    """Trains up to `steps` in a new run directory, as `fit` does once it has compiled."""
    exp = program.experiment
    with TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder) / "run"
        run = stack.enter_context(
            closing(open_run(directory, passport, exp.task.primary, exp.task.mode))
        )
        run.begin(0)
        hooks = [stack.enter_context(closing(hook.open(program, run))) for hook in exp.hooks]
        run.hooks = {str(i): hook for i, hook in enumerate(hooks) if hasattr(hook, "snapshot")}
        interrupt = stack.enter_context(signals())
        hooks = [*program.pacing(), *hooks, interrupt]
        return train(program.step, state, batches, steps, hooks)[0]


def _always(batch: Batch) -> Callable[[int], Batch]:
    return lambda n: batch


def _squares(out: jax.Array, batch: Batch) -> Sums:
    errors = jnp.sum((out - batch["y"]) ** 2, axis=-1)
    mask = batch.get("mask", jnp.ones_like(errors))
    return Sums(total=jnp.sum(errors * mask), weight=mask.sum())


@cache
def _source() -> ArraySource:
    x, y = line(EPOCH)
    return ArraySource({"x": x, "y": y})
