from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.nn import Attention, Rotary, learned, sinusoidal, sinusoids

KEY = jax.random.key(0)


@pytest.mark.row("L-049")
@pytest.mark.parametrize("width", [8, 7])
def test_sinusoids_are_the_paper_s(width):
    found = np.asarray(sinusoids(jnp.arange(50), width))
    np.testing.assert_allclose(found[0], [i % 2 for i in range(width)], atol=1e-7)
    for p, i in ((1, 0), (3, 2), (49, 4), (7, width - 1)):
        angle = p / 10000 ** ((i - i % 2) / width)
        expected = np.cos(angle) if i % 2 else np.sin(angle)
        assert found[p, i] == pytest.approx(expected, abs=1e-5)


@pytest.mark.row("L-049")
def test_a_shift_is_one_linear_map_of_every_position():
    rows = np.asarray(sinusoids(jnp.arange(64), 8), np.float64)
    shift = np.linalg.lstsq(rows[:-5], rows[5:], rcond=None)[0]
    np.testing.assert_allclose(rows[:-5] @ shift, rows[5:], atol=1e-5)


def test_sinusoids_are_as_large_as_they_are_to_the_paper_s_embedding():
    now = jnp.arange(6)
    found = sinusoidal(6, 8, std=0.02)(now)
    np.testing.assert_allclose(found, 0.02 * sinusoids(now, 8), rtol=1e-6)


@pytest.mark.row("L-050")
def test_the_learned_table_has_a_row_for_each_position():
    table = learned(6, 8, std=0.02)
    variables = table.init(KEY, jnp.arange(3))
    assert variables["params"]["embedding"].value.shape == (6, 8)
    assert variables["params"]["embedding"].names == ("pos", "embed")
    np.testing.assert_array_equal(
        table.apply(variables, jnp.array([4, 1])),
        variables["params"]["embedding"].value[jnp.array([4, 1])],
    )


@pytest.mark.row("L-050")
def test_scores_of_turned_queries_and_keys_depend_on_the_distance_alone():
    q, k = jax.random.normal(KEY, (2, 1, 1, 2, 8))
    turn = Rotary()

    def score(i, j):
        turned = (turn(x, jnp.array([p])) for x, p in ((q, i), (k, j)))
        return np.asarray(jnp.einsum("bthk,bthk->h", *turned))

    for i, j in ((0, 0), (7, 3), (20, 31)):
        np.testing.assert_allclose(score(i, j), score(i + 90, j + 90), atol=1e-5)
    assert np.abs(score(7, 3) - score(3, 7)).max() > 0.01
    np.testing.assert_allclose(score(5, 5), jnp.einsum("bthk,bthk->h", q, k), atol=1e-5)


def test_a_turn_is_the_complex_product():
    x = jax.random.normal(KEY, (2, 5, 3, 8))
    now = jnp.array([0, 1, 2, 11, 40])
    a, b = np.split(np.asarray(x, np.float64), 2, axis=-1)
    angle = np.asarray(now)[:, None] / 100.0 ** (np.arange(4) / 4)
    expected = (a + 1j * b) * np.exp(1j * angle)[None, :, None]
    found = np.asarray(Rotary(100.0)(x, now))
    np.testing.assert_allclose(found[..., :4] + 1j * found[..., 4:], expected, atol=1e-5)


def test_a_turn_keeps_the_dtype_and_has_angles_of_float32():
    x = jax.random.normal(KEY, (1, 1, 1, 8), jnp.bfloat16)
    found = Rotary()(x, jnp.array([4095]))
    assert found.dtype == jnp.bfloat16
    exact = Rotary()(x.astype(jnp.float32), jnp.array([4095]))
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=0.01, atol=0.01)


def test_heads_of_an_odd_size_are_refused():
    with pytest.raises(InputError, match=r"a head has 3; .* width / heads is even"):
        Rotary()(jnp.ones((1, 2, 2, 3)), jnp.arange(2))


@pytest.mark.parametrize("kv_heads", [0, 2])
def test_attention_with_a_cache_turns_what_comes_later_further(kv_heads):
    x = jax.random.normal(jax.random.key(1), (2, 6, 16))
    layer = partial(Attention, 4, causal=True, kv_heads=kv_heads)
    turning = layer(rotary=Rotary())
    variables = jax.jit(turning.init)(KEY, x)
    expected = turning.apply(variables, x)
    assert jnp.abs(expected - layer().apply(variables, x)).max() > 1e-3
    step = jax.jit(partial(layer(rotary=Rotary(), cache=6).apply, mutable=["cache"]))
    found = []
    for part in (x[:, :3], x[:, 3:4], x[:, 4:]):
        y, cache = step(variables, part)
        variables = {**variables, **cache}
        found.append(y)
    np.testing.assert_allclose(jnp.concatenate(found, 1), expected, rtol=1e-5, atol=1e-6)


def test_attention_sees_the_order_of_its_past_only_through_positions():
    x = jax.random.normal(KEY, (1, 5, 8))
    other = x[:, jnp.array([2, 0, 1, 3, 4])]
    plain, turning = Attention(2, causal=True), Attention(2, causal=True, rotary=Rotary())
    variables = plain.init(KEY, x)
    last = [plain.apply(variables, y)[:, -1] for y in (x, other)]
    np.testing.assert_allclose(*last, atol=1e-6)
    last = [turning.apply(variables, y)[:, -1] for y in (x, other)]
    assert jnp.abs(last[0] - last[1]).max() > 1e-4
