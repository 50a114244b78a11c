from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core import tree
from jaxdl.core.errors import InputError
from jaxdl.metrics import compute
from jaxdl.models.gpt import GPT
from jaxdl.nn import Rotary, sinusoidal
from jaxdl.parallel import unbox
from jaxdl.tasks import LanguageModel
from jaxdl.tasks.generate import generate

KEY = jax.random.key(0)
PLAIN = GPT(vocab=13, width=16, depth=2, heads=4, seq=8)
MIXED = replace(PLAIN, experts=4, dropout=0.1)
TOKENS = jax.random.randint(KEY, (4, 9), 0, 13)


def made(model):
    return unbox(jax.jit(model.init)(KEY, TOKENS[:, :-1])["params"])


def losses(task, model, params):
    """Total and metrics of the training loss."""
    (player,) = task.players(model)
    sums, (_, metrics) = jax.jit(player.loss)(params, {}, {"tokens": TOKENS}, KEY)
    return float(sums.total), metrics


def test_rows_beyond_the_vocabulary_change_nothing_and_are_never_chosen():
    padded, params = replace(PLAIN, pad_vocab=8), made(PLAIN)
    embedding = jnp.pad(params["tokens"]["embedding"], ((0, 3), (0, 0)), constant_values=1.0)
    more = params | {"tokens": {"embedding": embedding}}
    logits = padded.apply({"params": more}, TOKENS[:, :-1])
    expected = PLAIN.apply({"params": params}, TOKENS[:, :-1])
    np.testing.assert_allclose(logits[..., :13], expected, rtol=1e-5, atol=1e-6)
    assert (logits[..., 13:] == jnp.finfo(jnp.float32).min).all()
    total, _ = losses(LanguageModel(z_loss=0.1), padded, more)
    assert total == pytest.approx(losses(LanguageModel(z_loss=0.1), PLAIN, params)[0], rel=1e-5)
    sampled = generate(padded, more, TOKENS[:, :2], 7, KEY, temperature=100.0)
    assert sampled.max() < 13


def test_a_padded_vocabulary_does_not_hide_that_it_is_too_small():
    outputs = {"logits": jax.ShapeDtypeStruct((1, 8, 16), jnp.float32)}
    with pytest.raises(InputError, match="vocabulary is 13, but the data has 14"):
        LanguageModel().check(replace(PLAIN, pad_vocab=8), outputs, {"tokens": 14})


def test_heads_in_groups_generate_what_they_are_trained_to():
    model = replace(PLAIN, kv_heads=2)
    params = made(model)
    assert tree.size(made(PLAIN)) - tree.size(params) == 2 * 2 * 8 * (16 + 1)
    tokens = generate(model, params, TOKENS[:, :3], 5, KEY, temperature=0.0)
    both = jnp.concatenate([TOKENS[:, :3], tokens], axis=1)
    expected = model.apply({"params": params}, both[:, :-1]).argmax(-1)
    np.testing.assert_array_equal(tokens, expected[:, 2:])


@pytest.mark.parametrize(
    "remat",
    [{}, pytest.param({"remat": "full", "remat_segment": 2}, marks=pytest.mark.slow)],
    ids=["plain", "segments"],
)
def test_each_mixture_adds_its_loss_for_each_token(remat):
    model = replace(MIXED, **remat)
    params = made(model)
    plain, _ = losses(LanguageModel(balance=0.0), model, params)
    total, metrics = losses(LanguageModel(balance=0.5, router_z=0.25), model, params)
    found = compute(metrics)
    assert found["balance_loss"] >= 1 - 1e-6
    assert found["router_z_loss"] == pytest.approx(np.log(4) ** 2, rel=0.05)
    assert 0 <= found["dropped"] < 0.5
    more = 0.5 * found["balance_loss"] + 0.25 * found["router_z_loss"]
    assert (total - plain) / TOKENS[:, 1:].size == pytest.approx(2 * more, rel=1e-4)


POSITIONS = {
    "sinusoidal": {"positions": sinusoidal},
    "rotary": {"positions": None, "rotary": Rotary()},
    "none": {"positions": None},
}


@pytest.mark.row("L-050")
@pytest.mark.parametrize("how", POSITIONS.values(), ids=POSITIONS)
def test_positions_without_a_table_generate_what_they_are_trained_to(how):
    model = replace(PLAIN, **how)
    params = made(model)
    assert tree.size(made(PLAIN)) - tree.size(params) == PLAIN.seq * PLAIN.width
    tokens = generate(model, params, TOKENS[:, :3], 5, KEY, temperature=0.0)
    both = jnp.concatenate([TOKENS[:, :3], tokens], axis=1)
    expected = model.apply({"params": params}, both[:, :-1]).argmax(-1)
    np.testing.assert_array_equal(tokens, expected[:, 2:])


def test_only_a_gpt_without_positions_reads_its_past_in_any_order():
    swapped = TOKENS[:, jnp.array([1, 0, *range(2, 8)])]
    for how in ({}, *POSITIONS.values()):
        # In one layer: deeper ones see in each token how many came before it.
        model = replace(PLAIN, depth=1, **how)
        params = jax.tree.map(lambda p: 8 * p, made(model))
        read = jax.jit(lambda tokens, m=model, p=params: m.apply({"params": p}, tokens)[:, -1])
        here, there = read(TOKENS[:, :8]), read(swapped)
        same = bool(jnp.abs(here - there).max() < 1e-4)
        assert same == (how == POSITIONS["none"]), how
