import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.task import Player, Sums
from jaxdl.metrics import Mean
from jaxdl.optim import SAM
from jaxdl.train.grad import accumulate, gradient

RNG = np.random.default_rng(0)
RHO = 0.3
PARAMS = {"a": jnp.array(RNG.normal(size=3), jnp.float32), "b": jnp.array([2.0, -1.0])}
BATCH = {"x": jnp.array(RNG.normal(size=(8, 5)), jnp.float32)}
KEY = jax.random.key(0)


def flat(tree):
    return np.concatenate([np.asarray(tree[name], np.float64) for name in sorted(tree)])


def loss(params, state, batch, key):
    """sum_i (x_i . theta)^2 / 2, a quadratic with Hessian X^T X; the state counts and remembers."""
    theta = jnp.concatenate([params["a"], params["b"]])
    values = (batch["x"] * theta[None]).sum(1) ** 2 / 2
    sums = Sums(total=values.sum(), weight=jnp.float32(len(values)))
    state = {"passes": state["passes"] + 1, "seen": 0.9 * state["seen"] + 0.1 * values.mean()}
    return sums, (state, {"loss": Mean.from_sums(sums)})


STATE = {"passes": jnp.int32(0), "seen": jnp.float32(0)}


def sam(parts=1, params="*", unroll=True):
    grad = SAM(rho=RHO).wrap(accumulate(gradient(), parts, unroll=unroll))
    player = Player("main", loss, params=params)
    return jax.jit(lambda p: grad(player, p, STATE, BATCH, KEY))(PARAMS)


def by_hand(mine):
    """The gradient at theta + rho g / |g|, where only the entries `mine` may move."""
    x, theta = np.asarray(BATCH["x"], np.float64), flat(PARAMS)
    hessian = x.T @ x
    ascent = np.where(mine, hessian @ theta, 0)
    moved = theta + RHO * ascent / np.linalg.norm(ascent)
    return hessian @ moved


@pytest.mark.row("X-006")
def test_the_perturbation_has_one_global_norm():
    grads, sums, _ = sam()
    np.testing.assert_allclose(flat(grads), by_hand(np.ones(5, bool)), rtol=1e-5)
    x = np.asarray(BATCH["x"], np.float64)
    assert sums.total == pytest.approx(((x @ flat(PARAMS)) ** 2).sum() / 2, rel=1e-5)


@pytest.mark.row("X-006")
def test_the_norm_is_over_the_player_s_own_parameters():
    grads, _, _ = sam(params="a")
    assert set(grads) == {"a"}
    expected = by_hand(np.arange(5) < 3)[:3]
    np.testing.assert_allclose(grads["a"], expected, rtol=1e-5)


@pytest.mark.parametrize("unroll", [True, False])
def test_both_passes_see_every_micro_batch(unroll):
    whole, parts = sam(), sam(4, unroll=unroll)
    np.testing.assert_allclose(flat(parts[0]), flat(whole[0]), rtol=1e-5)
    np.testing.assert_allclose(parts[1].total, whole[1].total, rtol=1e-6)
    assert parts[1].weight == 8


def test_loss_metrics_and_state_are_of_the_first_pass():
    _, sums, (state, metrics) = sam()
    _, plain, (first, _) = gradient()(Player("main", loss), PARAMS, STATE, BATCH, KEY)
    assert sums.total == pytest.approx(float(plain.total))
    assert metrics["loss"].weight == 8
    assert state["passes"] == 1
    assert state["seen"] == pytest.approx(float(first["seen"]))
    assert sam(4)[2][0]["passes"] == 4


def test_at_a_minimum_nothing_is_divided_by_zero():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    grads, _, _ = SAM().wrap(gradient())(Player("main", loss), zeros, STATE, BATCH, KEY)
    np.testing.assert_array_equal(flat(grads), 0)
