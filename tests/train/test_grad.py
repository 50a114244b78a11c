import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core import rng
from jaxdl.core.task import Player, Sums
from jaxdl.losses import cross_entropy
from jaxdl.metrics import Accuracy, Last
from jaxdl.train.grad import accumulate, gradient

R = np.random.default_rng(0)
KEY = jax.random.key(0)
PARAMS = {
    "head": {"kernel": jnp.array(R.normal(size=(3, 4)), jnp.float32), "bias": jnp.zeros(4)},
    "base": {"scale": jnp.ones(3), "table": jnp.ones(3, jnp.int8)},
}
BATCH = {
    "x": jnp.array(R.normal(size=(12, 3)), jnp.float32),
    "label": jnp.array(R.integers(0, 4, 12)),
    # Of four micro-batches, rows i, i + 4, i + 8, count 3, 2, 1 and no examples.
    "mask": jnp.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0], jnp.float32),
}
STATE = {"order": jnp.float32(0)}


def loss(params, state, batch, key):
    x = batch["x"] * params["base"]["scale"][None]
    logits = x @ params["head"]["kernel"] + params["head"]["bias"][None]
    sums = cross_entropy(logits, batch["label"], mask=batch["mask"])
    # Not commutative: it tells in which order the micro-batches came.
    state = {"order": 0.5 * state["order"] + batch["x"][0, 0]}
    metrics = {
        "accuracy": Accuracy.from_model_output(logits, batch["label"], batch["mask"]),
        "draw": Last.of(jax.random.uniform(key)),
    }
    return sums, (state, metrics)


PLAYER = Player("main", loss, params="head/*")


def run(parts=1, unroll=True):
    grad = accumulate(gradient(), parts, unroll=unroll)
    return jax.jit(lambda: grad(PLAYER, PARAMS, STATE, BATCH, KEY))()


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected
    )


@pytest.mark.row("X-031")
@pytest.mark.parametrize("unroll", [True, False], ids=["unrolled", "scan"])
@pytest.mark.parametrize("parts", [2, 4, 12])
def test_accumulation_weighs_by_examples_and_equals_the_whole_batch(parts, unroll):
    whole, found = run(), run(parts, unroll)
    close(found[0], whole[0])
    close(found[1], whole[1])
    assert found[1].weight == 6
    accuracy = found[2][1]["accuracy"]
    assert accuracy == whole[2][1]["accuracy"]
    assert accuracy.weight == 6


@pytest.mark.parametrize("unroll", [True, False], ids=["unrolled", "scan"])
def test_state_passes_from_each_micro_batch_to_the_next_and_each_has_its_key(unroll):
    _, _, (state, metrics) = run(4, unroll)
    x, order = np.asarray(BATCH["x"]), 0.0
    for i in range(4):
        order = 0.5 * order + x[i, 0]
    assert state["order"] == pytest.approx(order, rel=1e-6)
    draws = [float(jax.random.uniform(rng.fold(KEY, i))) for i in range(4)]
    assert len(set(draws)) == 4
    assert metrics["draw"].value == pytest.approx(draws[-1])
    assert metrics["draw"].weight == 4


def test_one_part_is_the_gradient_function_itself():
    grad = gradient()
    assert accumulate(grad, 1, unroll=False) is grad


def test_gradients_are_of_the_player_s_parameters_only():
    """Frozen leaves may be integers, which have none."""
    x, label, mask = (np.asarray(BATCH[name]) for name in ("x", "label", "mask"))
    p = np.exp(x.astype(np.float64) @ np.asarray(PARAMS["head"]["kernel"]))
    slope = (p / p.sum(-1, keepdims=True) - np.eye(4)[label]) * mask[:, None]
    close(run()[0], {"head": {"kernel": x.T @ slope, "bias": slope.sum(0)}})


def column_loss(params, state, batch, key):
    """The classical slip: (N, 1) predictions against (N,) targets make (N, N) differences."""
    error = batch["x"] @ params["w"] - batch["x"][:, 0]
    return Sums(total=(error**2).sum(), weight=jnp.float32(12)), (state, {})


@pytest.mark.row("C-041")
def test_a_loss_that_broadcasts_ranks_is_refused_with_both_shapes():
    player, params = Player("main", column_loss), {"w": jnp.ones((3, 1))}
    with jax.numpy_rank_promotion("allow"):
        with pytest.raises(ValueError, match=r"\(12, 1\) \(12,\)"):
            gradient("raise")(player, params, {}, BATCH, KEY)
    with jax.numpy_rank_promotion("raise"):
        _, sums, _ = gradient("allow")(player, params, {}, BATCH, KEY)
    x = np.asarray(BATCH["x"], np.float64)
    error = x.sum(1, keepdims=True) - x[:, 0]
    assert sums.total == pytest.approx((error**2).sum(), rel=1e-5)
