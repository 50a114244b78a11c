import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxdl.core import tree
from jaxdl.core.precision import policy
from jaxdl.metrics import compute, merge
from jaxdl.models.gan import GAN, Critic
from jaxdl.optim import AdamW, Constant
from jaxdl.parallel import unbox
from jaxdl.tasks import Adversarial
from jaxdl.train import state as states
from jaxdl.train.grad import gradient
from jaxdl.train.step import make_step

KEY, TASK = jax.random.key(0), Adversarial()
MEAN, SPREAD, BATCH, STEPS = 0.3, 0.2, 128, 600


class Affine(nn.Module):
    """`a z + b`, which can become any Gaussian in one dimension; it begins as N(0, 0.5)."""

    latent: int = 1

    @nn.compact
    def __call__(self, z, *, train=False):
        return nn.Dense(1, kernel_init=nn.initializers.constant(0.5), name="out")(z)


MODEL = GAN(generator=Affine(), critic=Critic(hidden=32))


def real(key):
    return {"image": MEAN + SPREAD * jax.random.normal(key, (BATCH, 1))}


def run(build, steps=STEPS, batch=real):
    """The state after so many updates by the optimizers `build(player)`, and their metrics."""
    players = TASK.players(MODEL)

    @jax.jit
    def all_updates():
        params, model_state = unbox(TASK.init(MODEL, KEY, real(KEY)))
        txs = {p.name: build(p.name, tree.select(params, p.params)) for p in players}
        step = make_step(TASK, MODEL, txs, grad=gradient(), precision=policy("f32"))

        def update(state, key):
            state, metrics = step(state, batch(key))
            return state, {name: m.compute() for name, m in metrics.items()}

        state = states.create(params, model_state, players, txs, seed=0, ema=False)
        return jax.lax.scan(update, state, jax.random.split(jax.random.key(1), steps))

    return all_updates()


def adam(name, params, generator_rate=2e-3):
    rate = {"critic": 4e-3, "generator": generator_rate}[name]
    return AdamW(rate, Constant(), b1=0.5).build(STEPS, params)


def evaluate(state, batch):
    found = jax.jit(lambda s: TASK.evaluate(MODEL, s.params, s.model, batch, KEY))(state)
    return compute(merge([found]))


@pytest.fixture(scope="module")
def trained():
    return run(adam)


@pytest.mark.row("G-004")
def test_at_the_optimum_on_a_gaussian_the_critic_says_one_half(trained):
    state, metrics = trained
    out = state.params["generator"]["out"]
    assert float(out["bias"][0]) == pytest.approx(MEAN, abs=0.05)
    assert abs(float(out["kernel"][0, 0])) == pytest.approx(SPREAD, abs=0.05)
    for name in ("critic.real_probability", "critic.fake_probability"):
        np.testing.assert_allclose(metrics[name][-100:], 0.5, atol=0.1)
    # Not on average only, but wherever there are data.
    grid = jnp.linspace(MEAN - 2 * SPREAD, MEAN + 2 * SPREAD, 21)[:, None]
    logits = jax.jit(MODEL.critic.apply)({"params": state.params["critic"]}, grid)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.5, atol=0.1)


def test_that_critic_would_tell_a_generator_that_stays():
    _, metrics = run(lambda name, params: adam(name, params, generator_rate=1e-9))
    assert metrics["critic.real_probability"][-100:].mean() > 0.62
    assert metrics["critic.fake_probability"][-100:].mean() < 0.38


@pytest.mark.row("G-004")
def test_noise_is_fresh_in_every_update_of_every_player():
    """Nothing moves and the data stay the same, so that noise alone makes a difference."""

    def still(name, params):
        return optax.set_to_zero()

    _, metrics = run(still, 5, lambda _: real(KEY))
    assert len(set(np.asarray(metrics["critic.real_probability"]).tolist())) == 1
    assert len(set(np.asarray(metrics["critic.fake_probability"]).tolist())) == 5
    assert len(set(np.asarray(metrics["generator.loss"]).tolist())) == 5
    # -log D(G(z)) of the generator's noise is not that of the critic's.
    assert not np.isclose(metrics["generator.loss"], metrics["critic.loss"] / 2, atol=1e-4).any()


def test_each_player_moves_its_own_parameters_only(trained):
    state, _ = trained
    for name in ("generator", "critic"):
        other = {"generator": "critic", "critic": "generator"}[name]
        paths = tree.flatten(state.opt[name])
        assert any(f"mu/{name}/" in path for path in paths)
        assert not any(f"/{other}/" in path for path in paths)


def test_evaluation_counts_rows_of_the_mask_only(trained):
    state, _ = trained
    mask = (jnp.arange(BATCH) < 100).astype(jnp.float32)
    batch = real(jax.random.key(5))
    hidden = {"image": jnp.where(mask[:, None] > 0, batch["image"], jnp.nan)}
    found = evaluate(state, hidden | {"mask": mask})
    x = np.asarray(batch["image"][:100, 0], np.float64)
    noise = np.asarray(TASK.predict(MODEL, state.params, state.model, batch, KEY)["image"])[:100, 0]
    expected = (x.mean() - noise.mean()) ** 2 + (x.std() - noise.std()) ** 2
    assert found["frechet"] == pytest.approx(expected, rel=1e-2, abs=1e-5)
    logits = jax.jit(MODEL.critic.apply)({"params": state.params["critic"]}, batch["image"][:100])
    probability = float(jax.nn.sigmoid(logits).mean())
    assert found["critic.real_probability"] == pytest.approx(probability, rel=1e-5)


def test_evaluation_repeats_with_its_key_and_predicts_in_f32(trained):
    state, _ = trained
    batch = real(KEY)
    assert evaluate(state, batch) == evaluate(state, batch)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params)
    assert TASK.predict(MODEL, params, state.model, batch, KEY)["image"].dtype == jnp.float32
