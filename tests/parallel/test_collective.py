"""The step with its collectives written out: the same numbers as the one that XLA partitions."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core import Experiment
from jaxdl.core.task import Player, Sums
from jaxdl.data import ArraySource, Digits
from jaxdl.metrics import Last, Mean, compute, reduce
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet
from jaxdl.optim import SAM, AdamW, Constant
from jaxdl.parallel import all_reduced, make_mesh, scope
from jaxdl.tasks import Classification
from jaxdl.train import build, training_batches

ONE = jax.devices()[:1]


@dataclass(frozen=True)
class Ragged(Digits):
    """64 digits of which 19 count; on some devices there is none."""

    def train(self):
        rows = super().train().take(np.arange(64))
        return ArraySource(rows | {"mask": (np.arange(64) < 19).astype(np.float32)})

    def plan(self, split):
        return lambda seed, e: e % 64


BASE = Experiment(
    model=ResNet(stages=(1, 1), width=8, classes=10),
    task=Classification(),
    data=Ragged(batch=64, eval_batch=120),
    optim=AdamW(peak_lr=1e-2, schedule=Constant()),
    steps=10,
)
CASES = {
    "batch norm": BASE,
    "micro-batches": replace(BASE, accumulate=2),
    "sam": replace(BASE, optim=replace(BASE.optim, sam=SAM(0.1))),
    "fsdp": replace(BASE, rules="auto", mesh={"data": 2, "fsdp": 4}),
    "hybrid": replace(BASE, mesh={"data": 4, "model": 2}, rules={"conv_out": "model"}),
}


def explicit(exp):
    return replace(exp, collectives="explicit")


def one_update(program):
    state, metrics = program.step(program.init(), training_batches(program)(0))
    return state, compute(metrics)


@pytest.mark.row("C-007")
@pytest.mark.parametrize("name", CASES)
def test_gradients_loss_and_metrics_equal_those_of_one_device(name):
    exp = CASES[name]
    state, metrics = one_update(build(explicit(exp)))
    expected, told = one_update(build(replace(exp, mesh={}, rules="dp"), ONE))
    assert metrics == pytest.approx(told, rel=1e-5)
    # Adam's first moment after one update is a tenth of the gradient.
    for a, b in zip(
        *(jax.tree.leaves(s.opt["main"][0].mu) for s in (state, expected)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
    for a, b in zip(*(jax.tree.leaves(s.model) for s in (state, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.row("C-007")
def test_the_collectives_are_there_before_xla_partitions_anything():
    def lowered(exp):
        program = build(exp)
        return program.step.lower(program.abstract, program.batch).as_text()

    exp = replace(BASE, model=MLP(widths=(8,), classes=10))
    assert "all_reduce" in lowered(explicit(exp))
    assert "all_reduce" not in lowered(exp)
    divided = lowered(explicit(replace(exp, rules="auto", mesh={"fsdp": 8})))
    assert "all_gather" in divided and "reduce_scatter" in divided


def test_each_device_draws_for_itself():
    def grad(player, params, model_state, batch, key):
        draw = Mean.from_model_output(jax.random.uniform(key, (1,)))
        ones = jnp.float32(batch["x"].sum())
        return {}, Sums(total=ones, weight=ones), (model_state, {"draw": draw, "lr": Last.of(3.0)})

    mesh, key = make_mesh(), jax.random.key(7)

    @partial(jax.jit, in_shardings=NamedSharding(mesh, PartitionSpec()))
    def reduced(batch, key):
        with scope(mesh, "dp"):
            return all_reduced(grad, reduce, {})(Player("main", None), {}, {}, batch, key)

    _, sums, (_, metrics) = reduced({"x": jnp.ones(16)}, key)
    draws = [jax.random.uniform(jax.random.fold_in(key, i)) for i in range(8)]
    assert float(sums.total) == float(sums.weight) == 16
    assert float(metrics["draw"].weight) == 8
    assert float(metrics["draw"].compute()) == pytest.approx(np.mean(draws))
    assert float(metrics["lr"].compute()) == 3


def test_on_one_device_it_is_the_plain_step():
    _, metrics = one_update(build(explicit(BASE), ONE))
    assert metrics == pytest.approx(one_update(build(BASE, ONE))[1], rel=1e-6)
