"""Dynamic loss scaling of float16."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core import Experiment
from jaxdl.core.precision import policy
from jaxdl.core.task import Player, Sums
from jaxdl.data import Digits
from jaxdl.metrics import compute
from jaxdl.models.mlp import MLP
from jaxdl.optim import SGD, AdamW, Constant
from jaxdl.tasks import Classification
from jaxdl.train import Log, Save, fit, make_step
from jaxdl.train import state as states
from jaxdl.train.grad import gradient
from jaxdl.train.scale import INITIAL, LEAST, MOST, PERIOD

F16 = policy("f16")


@dataclass(frozen=True)
class Steep:
    """A loss `slope * w`: backwards, `slope` passes through the parameter's dtype."""

    def players(self, model):
        def loss(params, state, batch, key):
            total = (batch["slope"] * params["w"].astype(jnp.float32)).sum()
            return Sums(total=total, weight=jnp.float32(1)), (state, {})

        return (Player("main", loss),)


def prepare(clip=0.0, branch=False):
    tx = SGD(1.0, Constant(), momentum=0.0, clip=clip)
    params = {"w": jnp.float32(1)}
    players = Steep().players(None)
    txs = {"main": tx.build(10, params)}
    step = make_step(Steep(), None, txs, grad=gradient("allow"), precision=F16, branch=branch)
    return jax.jit(step), states.create(params, {}, players, txs, seed=0, ema=False, scaled=True)


def batch(slope):
    return {"slope": jnp.array([slope], jnp.float32)}


@pytest.mark.row("C-013")
def test_an_overflow_changes_nothing_and_halves_the_scale():
    step, state = prepare()
    after, metrics = step(state, batch(jnp.inf))
    assert after.params == state.params and int(after.skipped) == 1
    assert jax.tree.all(jax.tree.map(jnp.array_equal, after.opt, state.opt))
    assert float(after.scale.value) == INITIAL / 2
    assert float(metrics["loss_scale"].compute()) == INITIAL
    # 4 is an ordinary gradient, but 4 * 2**15 overflows float16.
    after, _ = step(state, batch(4.0))
    assert int(after.skipped) == 1 and float(after.scale.value) == INITIAL / 2


@pytest.mark.row("C-013")
def test_the_scale_doubles_after_a_period_of_finite_updates_and_only_then():
    step, state = prepare()
    almost = state.replace(scale=state.scale.replace(fine=jnp.int32(PERIOD - 2)))
    once, _ = step(almost, batch(1e-3))
    assert float(once.scale.value) == INITIAL and int(once.scale.fine) == PERIOD - 1
    twice, _ = step(once, batch(1e-3))
    assert float(twice.scale.value) == 2 * INITIAL and int(twice.scale.fine) == 0
    lost, _ = step(almost, batch(jnp.inf))
    assert int(lost.scale.fine) == 0


def test_guarding_by_a_branch_changes_nothing():
    (selecting, a), (branching, b) = prepare(), prepare(branch=True)
    assert "stablehlo.case" in branching.lower(b, batch(1.0)).as_text()
    for slope in (0.5, jnp.inf, 1e-3, 4.0, 0.25):
        (a, told), (b, found) = selecting(a, batch(slope)), branching(b, batch(slope))
        for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(left, right)
        assert compute(told).keys() == compute(found).keys()
    assert int(a.skipped) == 2


def test_an_update_that_is_left_out_has_no_gradient_norm():
    step, state = prepare()
    _, metrics = step(state, batch(jnp.inf))
    assert "grad_norm" not in compute(metrics)


@pytest.mark.parametrize(("start", "slope", "bound"), [(LEAST, jnp.inf, LEAST), (MOST, 0.0, MOST)])
def test_the_scale_has_bounds(start, slope, bound):
    step, state = prepare()
    scale = state.scale.replace(value=jnp.float32(start), fine=jnp.int32(PERIOD - 1))
    after, _ = step(state.replace(scale=scale), batch(slope))
    assert float(after.scale.value) == bound


@pytest.mark.row("C-013")
def test_a_gradient_that_float16_rounds_to_zero_survives():
    assert np.float16(1e-8) == 0
    step, state = prepare()
    at_zero = state.replace(params={"w": jnp.float32(0)})
    after, _ = step(at_zero, batch(1e-8))
    assert float(after.params["w"]) == pytest.approx(-1e-8, rel=1e-3)
    unscaled, _ = step(at_zero.replace(scale=None), batch(1e-8))
    assert float(unscaled.params["w"]) == 0, "or the test shows nothing"


@pytest.mark.row("C-013")
def test_unscaling_comes_before_clipping():
    step, state = prepare(clip=0.5)
    after, metrics = step(state, batch(1.0))
    assert compute(metrics)["grad_norm"] == 1.0, "the norm is of the unscaled gradient"
    assert float(after.params["w"]) == pytest.approx(0.5)
    step, state = prepare(clip=0.5)
    after, _ = step(state, batch(0.25))
    assert float(after.params["w"]) == 0.75, "what lies below the limit is not clipped"


def test_digits_train_in_float16_and_resume_to_the_same_bits(tmp_path):
    exp = Experiment(
        model=MLP(widths=(32,), classes=10),
        task=Classification(),
        data=Digits(batch=64, eval_batch=120),
        optim=AdamW(peak_lr=1e-2, schedule=Constant()),
        steps=100,
        precision="f16",
        hooks=(Log(every=10), Save(every=50)),
    )
    whole = fit(exp, tmp_path / "whole")
    assert whole.result.metrics["test"]["accuracy"] >= 0.9
    assert {x.dtype for x in jax.tree.leaves(whole.state.params)} == {jnp.dtype("float32")}
    fit(replace(exp, steps=50), tmp_path / "cut")
    resumed = fit(exp, tmp_path / "cut")
    for a, b in zip(*map(jax.tree.leaves, (whole.state, resumed.state)), strict=True):
        np.testing.assert_array_equal(*map(_words, (a, b)))


def _words(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
