from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core import Experiment, InputError, rng, tree
from jaxdl.core.precision import policy
from jaxdl.core.task import Player, Sums
from jaxdl.data import Digits
from jaxdl.metrics import Mean, compute, merge
from jaxdl.models.mlp import MLP
from jaxdl.optim import SGD, AdamW, Constant
from jaxdl.tasks import Classification
from jaxdl.train import build
from jaxdl.train import state as states
from jaxdl.train.grad import accumulate, gradient
from jaxdl.train.step import make_step

R = np.random.default_rng(0)
X, Y = R.normal(size=(8, 3)).astype(np.float32), R.normal(size=8).astype(np.float32)
BATCH = {"x": jnp.array(X), "y": jnp.array(Y)}
PARAMS = {"w": jnp.array(R.normal(size=3), jnp.float32), "b": jnp.float32(0.5)}
STATE = {"batch_stats": {"mean": jnp.zeros(3)}}
LR = 0.1


@dataclass(frozen=True)
class Toy:
    """A task of given players."""

    given: tuple[Player, ...]

    def players(self, model):
        return self.given


def loss(params, state, batch, key):
    """Half the squared error of a line; the state is a running mean of x."""
    error = (batch["x"] * params["w"][None]).sum(1) + params["b"] - batch["y"]
    sums = Sums(total=(error**2).sum() / 2, weight=jnp.float32(len(error)))
    mean = 0.9 * state["batch_stats"]["mean"] + 0.1 * batch["x"].mean(0)
    metrics = {"draw": Mean.from_model_output(jax.random.uniform(key, (1,)))}
    return sums, ({"batch_stats": {"mean": mean}}, metrics)


MAIN = (Player("main", loss),)


def prepare(players=MAIN, params=PARAMS, *, optim=None, parts=1, ema=0.0, model_state=STATE):
    """A step and its first state; `optim` by player, plain SGD for those it leaves out."""
    txs = {
        p.name: (optim or {})
        .get(p.name, SGD(LR, Constant(), momentum=0.0))
        .build(100, tree.select(params, p.params))
        for p in players
    }
    grad = accumulate(gradient(), parts, unroll=True)
    step = make_step(Toy(players), None, txs, grad=grad, precision=policy("f32"), ema=ema)
    state = states.create(params, model_state, players, txs, seed=0, ema=ema > 0)
    return step, jax.tree.map(jnp.array, state)


def by_hand(params, x=X, y=Y):
    """The parameters after one step of gradient descent on the mean loss, in float64."""
    x, y, w, b = (np.asarray(a, np.float64) for a in (x, y, params["w"], params["b"]))
    error = x @ w + b - y
    return {"w": w - LR * (error[:, None] * x).mean(0), "b": b - LR * error.mean()}


def close(found, expected, tolerance=1e-6):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        found,
        expected,
    )


def same(found, expected):
    """Bit for bit."""
    chex.assert_trees_all_equal(*jax.tree.map(plain, (found, expected)))


def plain(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


@pytest.mark.row("C-006")
@pytest.mark.parametrize("parts", [1, 4])
def test_a_step_of_sgd_is_the_hand_written_one(parts):
    step, state = prepare(parts=parts)
    new, metrics = jax.jit(step)(state, BATCH)
    close(new.params, by_hand(PARAMS))
    error = X @ np.asarray(PARAMS["w"]) + 0.5 - Y
    values = compute(merge([metrics]))
    assert values["loss"] == pytest.approx((error**2).mean() / 2, rel=1e-5)
    slope = np.append((error[:, None] * X).mean(0), error.mean())
    assert values["grad_norm"] == pytest.approx(np.linalg.norm(slope), rel=1e-5)
    assert values["lr"] == pytest.approx(LR)
    assert values["skipped"] == 0


@pytest.mark.row("C-005")
def test_the_state_is_a_tree_that_survives_jit_with_donation():
    step, state = prepare(parts=4, ema=0.9, optim={"main": AdamW()})
    leaves, structure = jax.tree.flatten(state)
    assert jax.tree.unflatten(structure, leaves) == state
    paths = set(tree.flatten(state))
    assert {"counters", "params/w", "ema/b"} <= paths
    assert "model/batch_stats/mean" in paths
    assert any(path.startswith("opt/main/") and path.endswith("mu/w") for path in paths)

    types = jax.tree.map(jax.typeof, state)
    key, jitted = plain(state.key), jax.jit(step, donate_argnums=0)
    for n in range(1, 4):
        state, _ = jitted(state, BATCH)
        assert isinstance(state, states.State)
        assert state.step.dtype == state.cursor.dtype == state.skipped.dtype == jnp.int32
        # Per update, not per micro-batch.
        assert (int(state.step), int(state.cursor), int(state.skipped)) == (n, n, 0)
    assert jax.tree.map(jax.typeof, state) == types
    np.testing.assert_array_equal(plain(state.key), key)


@pytest.mark.row("C-006", "C-041")
def test_ten_steps_are_traced_once_and_donate_their_state():
    chex.clear_trace_counter()
    step, state = prepare(ema=0.9, optim={"main": AdamW()})
    jitted = jax.jit(chex.assert_max_traces(step.__call__, n=1), donate_argnums=0)
    for _ in range(10):
        before = jax.tree.leaves(state)
        state, _ = jitted(state, BATCH)
        assert all(leaf.is_deleted() for leaf in before)
    with pytest.raises(AssertionError, match="traced > 1 times"):
        jitted(state, {name: x[:4] for name, x in BATCH.items()})


@pytest.mark.row("C-006", "C-041")
def test_the_step_of_a_program_donates_and_refuses_to_be_traced_again():
    exp = Experiment(
        model=MLP(widths=(4,), classes=10),
        task=Classification(),
        data=Digits(batch=16, eval_batch=16),
        optim=SGD(0.1),
        steps=10,
    )
    program = build(exp, jax.devices()[:2])
    state = program.init()
    images = np.zeros((16, 8, 8, 1), np.float32)
    batch = {"image": images, "label": np.zeros(16, np.int32)}
    batch = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), batch, program.batch)
    for _ in range(10):
        before = state.params
        state, _ = program.step(state, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    with pytest.raises(InputError, match=r"image float32\[16, 8, 8, 1\].* image float32\[8, 8"):
        program.step(state, {name: x[:8] for name, x in batch.items()})


@pytest.mark.parametrize("wild", [np.inf, np.nan], ids=str)
def test_a_gradient_that_is_not_finite_is_left_out(wild):
    step, state = prepare(optim={"main": AdamW()}, ema=0.9)
    step = jax.jit(step)
    before, _ = step(state, BATCH)
    broken = BATCH | {"x": BATCH["x"].at[3, 1].set(wild)}
    after, metrics = step(before, broken)
    same(after.params, before.params)
    same(after.opt, before.opt)
    same(after.model, before.model)
    close(after.ema, jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, before.ema, before.params))
    assert (int(after.step), int(after.cursor), int(after.skipped)) == (2, 2, 1)
    assert metrics["skipped"].compute() == 1
    last, metrics = step(after, BATCH)
    assert (int(last.step), int(last.skipped)) == (3, 1)
    assert metrics["skipped"].compute() == 0
    assert not np.array_equal(last.params["w"], after.params["w"])


def test_a_batch_without_examples_is_left_out():
    def nothing(params, state, batch, key):
        return Sums(total=0 * params["w"].sum(), weight=jnp.float32(0)), (state, {})

    empty = Player("main", nothing)
    step, state = prepare((empty,))
    new, metrics = jax.jit(step)(state, BATCH)
    same(new.params, state.params)
    assert int(new.skipped) == 1
    assert "loss" not in compute(merge([metrics]))


def test_each_update_and_player_draws_its_own_numbers():
    players = (Player("a", loss, params="w"), Player("b", loss, params="b"))
    step, state = prepare(players)
    step, draws = jax.jit(step), []
    for _ in range(3):
        state, metrics = step(state, BATCH)
        draws += [float(metrics["a.draw"].compute()), float(metrics["b.draw"].compute())]
    assert len(set(draws)) == 6
    key = rng.fold(rng.root(0), 1, "b")
    assert draws[3] == pytest.approx(float(jax.random.uniform(key, (1,))[0]))


def test_players_update_in_order_each_from_what_the_one_before_left():
    players = (Player("first", loss, params="w"), Player("second", loss, params="b"))
    step, state = prepare(players)
    new, _ = jax.jit(step)(state, BATCH)
    w = by_hand(PARAMS)["w"]
    close(new.params, {"w": w, "b": by_hand({"w": w, "b": 0.5})["b"]})


def test_a_player_of_every_second_update_rests_in_between():
    players = (Player("fast", loss, params="w"), Player("slow", loss, params="b", every=2))
    step, state = prepare(players, optim={"slow": AdamW(LR, Constant())})
    step, seen = jax.jit(step), []
    for n in range(4):
        old, (state, metrics) = state, step(state, BATCH)
        seen.append(metrics)
        assert not np.array_equal(state.params["w"], old.params["w"])
        moved = not np.array_equal(state.params["b"], old.params["b"])
        assert moved == (n % 2 == 0)
        if moved:
            assert "slow.loss" in compute(merge([metrics]))
        else:
            same(state.opt["slow"], old.opt["slow"])
            assert not [name for name in compute(merge([metrics])) if name.startswith("slow.")]
    # Two of the four updates count: the log divides by them, not by the steps.
    merged = merge(seen)
    assert merged["slow.loss"].weight == 2 * len(X)
    assert merged["fast.loss"].weight == 4 * len(X)
    assert merged["slow.grad_norm"].weight == 2


def test_parameters_that_no_player_matches_stay_and_have_no_optimizer_state():
    params = PARAMS | {"base": {"table": jnp.arange(4, dtype=jnp.int8), "scale": jnp.ones(4)}}
    players = (Player("main", loss, params="[wb]"),)
    step, state = prepare(players, params, optim={"main": AdamW(decay=0.1)}, ema=0.5)
    assert not [path for path in tree.flatten(state.opt) if "base" in path]
    step = jax.jit(step)
    for _ in range(3):
        state, _ = step(state, BATCH)
    same(state.params["base"], params["base"])
    same(state.ema["base"], params["base"])
    assert not np.array_equal(state.params["w"], params["w"])


def test_the_average_is_its_closed_form():
    step, state = prepare(ema=0.8)
    step, values = jax.jit(step), [np.asarray(PARAMS["w"], np.float64)]
    for _ in range(5):
        state, _ = step(state, BATCH)
        values.append(np.asarray(state.params["w"], np.float64))
    weights = np.array([0.8**5] + [0.2 * 0.8 ** (5 - i) for i in range(1, 6)])
    np.testing.assert_allclose(state.ema["w"], weights @ np.array(values), rtol=1e-5)
    assert prepare()[1].ema is None
