import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.optim import AdamW, Linear, ema_update, rates, reduce_rates, scale_by_rate

PARAMS = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def schedule(count):
    return 0.1 * (count + 1)


def test_updates_are_minus_the_rate_and_the_state_shows_it():
    tx = scale_by_rate(schedule)
    state = tx.init(PARAMS)
    for count in range(3):
        updates, state = tx.update(GRADS, state)
        np.testing.assert_allclose(updates["kernel"], -schedule(count), rtol=1e-6)
        assert state.value == pytest.approx(schedule(count))
        assert state.count == count + 1


def test_updates_keep_their_dtype():
    half = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADS)
    tx = scale_by_rate(schedule)
    updates, _ = tx.update(half, tx.init(half))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}


def test_reducing_turns_the_rates_of_a_chain_and_nothing_else():
    tx = AdamW(peak_lr=0.1, clip=1.0, decay=0.1, schedule=Linear()).build(10, PARAMS)
    state = tx.init(PARAMS)
    reduced = reduce_rates(reduce_rates(state, 0.5), 0.1)
    assert [rate.factor for rate in rates(reduced)] == [pytest.approx(0.05)]
    assert jax.tree.structure(reduced) == jax.tree.structure(state)
    updates, _ = tx.update(GRADS, state, PARAMS)
    smaller, after = tx.update(GRADS, reduced, PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.05 * b, rtol=1e-6), smaller, updates)
    assert rates(after)[0].value == pytest.approx(0.005)
    assert rates(after)[0].factor == pytest.approx(0.05)


def test_rates_are_found_wherever_they_are():
    rate = scale_by_rate(optax.constant_schedule(0.1)).init(PARAMS)
    assert [id(x) for x in rates({"a": (rate, PARAMS), "b": rate})] == [id(rate)] * 2
    assert rates(PARAMS) == []


def test_the_average_is_its_closed_form():
    average, values = {"w": jnp.float32(1.0)}, np.array([3.0, -2.0, 5.0, 0.5])
    for value in values:
        average = ema_update(average, {"w": jnp.float32(value)}, 0.9)
    weights = 0.1 * 0.9 ** np.arange(3, -1, -1)
    assert average["w"] == pytest.approx(0.9**4 + weights @ values)


def test_integers_are_taken_over_not_averaged():
    average = ema_update({"q": jnp.zeros(2, jnp.int8)}, {"q": jnp.ones(2, jnp.int8)}, 0.9)
    assert average["q"].dtype == jnp.int8
    assert average["q"].tolist() == [1, 1]
