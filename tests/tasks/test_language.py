import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.core import InputError
from jaxdl.metrics import compute, merge
from jaxdl.parallel import unbox
from jaxdl.tasks import LanguageModel

KEY, VOCAB = jax.random.key(0), 7
R = np.random.default_rng(0)
TOKENS = jnp.array(R.integers(0, VOCAB, (4, 9)))


class Successor(nn.Module):
    """Expects each token to be followed by its successor, with confidence `scale`."""

    @nn.compact
    def __call__(self, tokens, *, train=False):
        scale = self.param("scale", nn.initializers.constant(5.0), ())
        return scale * jax.nn.one_hot((tokens + 1) % VOCAB, VOCAB)


MODEL, PARAMS = Successor(), {"scale": jnp.float32(5.0)}


def evaluate(batch, params=PARAMS):
    task = LanguageModel()
    return jax.jit(lambda p, b: task.evaluate(MODEL, p, {}, b, KEY))(params, batch)


def losses(tokens, scale=5.0):
    """Next-token losses in float64, in closed form."""
    hit = tokens[:, 1:] == (tokens[:, :-1] + 1) % VOCAB
    return np.log(np.exp(scale) + VOCAB - 1) - scale * hit, hit


def test_what_follows_is_predicted_from_what_is_there():
    counting = {"tokens": (jnp.arange(9)[None] + jnp.arange(4)[:, None]) % VOCAB}
    found = compute(merge([evaluate(counting)]))
    assert found["accuracy"] == 1
    assert found["loss"] == pytest.approx(np.log(1 + (VOCAB - 1) * np.exp(-5.0)), rel=1e-5)
    same = {"tokens": jnp.ones((4, 9), jnp.int32)}
    assert compute(merge([evaluate(same)]))["accuracy"] == 0


@pytest.mark.row("X-019")
def test_perplexity_is_exp_of_the_mean_over_all_tokens():
    mask = jnp.array(np.arange(8)[None] < np.array([8, 1, 3, 0])[:, None], jnp.float32)
    parts = [{"tokens": TOKENS[i], "token_mask": mask[i]} for i in (slice(0, 2), slice(2, 4))]
    found = compute(merge(map(evaluate, parts)))
    nats, hit = losses(np.asarray(TOKENS))
    kept = np.asarray(mask) > 0
    assert found["loss"] == pytest.approx(nats[kept].mean(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats[kept].mean()), rel=1e-5)
    assert found["accuracy"] == pytest.approx(hit[kept].mean())


@pytest.mark.parametrize("tokens", [None, jnp.ones((4, 8), jnp.int32).at[:, 5:].set(0)], ids=str)
def test_rows_and_tokens_are_masked_together(tokens):
    rows = jnp.array([1.0, 0.0, 1.0, 0.0])
    batch = {"tokens": TOKENS, "mask": rows} | ({} if tokens is None else {"token_mask": tokens})
    found = evaluate(batch)
    kept = np.asarray(rows)[:, None] * (np.ones((4, 8)) if tokens is None else np.asarray(tokens))
    nats, _ = losses(np.asarray(TOKENS))
    assert found["loss"].total == pytest.approx((nats * kept).sum(), rel=1e-5)
    assert found["loss"].weight == found["accuracy"].weight == kept.sum()


def test_the_z_loss_is_in_training_only():
    def loss(task):
        (player,) = task.players(MODEL)
        return jax.jit(player.loss)(PARAMS, {}, {"tokens": TOKENS}, KEY)[0]

    plain, with_z = loss(LanguageModel()), loss(LanguageModel(z_loss=0.1))
    log_z = np.log(np.exp(5.0) + VOCAB - 1)
    assert plain.total == evaluate({"tokens": TOKENS})["loss"].total
    assert with_z.total - plain.total == pytest.approx(32 * 0.1 * log_z**2, rel=1e-4)
    assert plain.weight == with_z.weight == 32


def test_the_model_sees_windows_without_their_last_token():
    params, state = unbox(LanguageModel().init(MODEL, KEY, {"tokens": TOKENS}))
    assert state == {}
    found = LanguageModel().predict(MODEL, params, state, {"tokens": TOKENS}, KEY)
    assert found["logits"].shape == (4, 8, VOCAB)
    np.testing.assert_array_equal(found["token"], (TOKENS[:, :-1] + 1) % VOCAB)
    np.testing.assert_allclose(
        found["probability"], 1 / (1 + (VOCAB - 1) * np.exp(-5.0)), rtol=1e-5
    )


def test_a_vocabulary_smaller_than_the_data_s_is_refused():
    outputs = {"logits": jax.ShapeDtypeStruct((2, 8, 7), jnp.float32)}
    with pytest.raises(InputError, match=r"vocabulary is 7, .* 256 tokens; set model\.vocab=256"):
        LanguageModel().check(MODEL, outputs, {"tokens": 256})
    LanguageModel().check(MODEL, outputs, {"tokens": 7})
