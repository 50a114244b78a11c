from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.nn import Attention, attend, causal_mask

Q, K, V = jax.random.normal(jax.random.key(0), (3, 2, 6, 2, 4))


@pytest.mark.parametrize("causal", [False, True])
def test_attend_is_the_reference(causal):
    mask = causal_mask(6) if causal else None
    expected = jax.nn.dot_product_attention(Q, K, V, is_causal=causal)
    np.testing.assert_allclose(attend(Q, K, V, mask), expected, rtol=1e-5, atol=1e-6)


def test_true_means_attend_and_a_row_of_nothing_gives_zeros_with_finite_gradients():
    mask = jnp.zeros((1, 1, 6, 6), bool).at[..., 1:, 2].set(True)
    y = attend(Q, K, V, mask)
    np.testing.assert_array_equal(y[:, 0], 0)
    np.testing.assert_allclose(y[:, 1:], jnp.broadcast_to(V[:, 2:3], y[:, 1:].shape), rtol=1e-6)
    grads = jax.jit(jax.grad(lambda *qkv: (attend(*qkv, mask) ** 2).sum(), (0, 1, 2)))(Q, K, V)
    assert all(jnp.isfinite(g).all() for g in grads)


def test_large_logits_stay_finite():
    assert jnp.isfinite(attend(1e4 * Q, 1e4 * K, V)).all()


def test_the_future_is_hidden_and_padding_too():
    layer, x = Attention(2, causal=True), jax.random.normal(jax.random.key(1), (2, 6, 8))
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x)
    np.testing.assert_array_equal(y[:, :4], layer.apply(variables, x.at[:, 4:].set(9.0))[:, :4])

    layer = Attention(2)
    keep = (jnp.arange(6) < 4)[None, None, None, :]
    padded = layer.apply(variables, x, keep)[:, :4]
    np.testing.assert_allclose(padded, layer.apply(variables, x[:, :4]), rtol=1e-5, atol=1e-6)


def test_a_mask_is_not_ignored_beside_a_cache():
    layer, x = Attention(2, cache=6), jnp.ones((1, 3, 8))
    with pytest.raises(InputError, match="cache=6 takes no mask"):
        jax.eval_shape(layer.init, jax.random.key(0), x, causal_mask(3))


@pytest.mark.parametrize(("heads", "near"), [(5, r"\[4, 6\]"), (7, r"\[6, 8\]"), (0, r"\[1, 2\]")])
def test_heads_that_do_not_divide_name_the_nearest(heads, near):
    with pytest.raises(InputError, match=f"width=24 .*heads={heads}.*{near}"):
        jax.eval_shape(Attention(heads).init, jax.random.key(0), jnp.ones((1, 2, 24)))


@pytest.mark.parametrize("groups", [1, 2])
def test_heads_in_groups_are_heads_whose_keys_and_values_are_the_same(groups):
    q, k, v = jax.random.normal(jax.random.key(2), (3, 2, 6, 4, 4))
    k, v = k[:, :, :groups], v[:, :, :groups]
    repeated = (jnp.repeat(x, 4 // groups, axis=2) for x in (k, v))
    expected = jax.nn.dot_product_attention(q, *repeated, is_causal=True)
    np.testing.assert_allclose(attend(q, k, v, causal=True), expected, rtol=1e-5, atol=1e-6)


def test_groups_are_fewer_parameters_and_remembered_as_groups():
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    layer = Attention(4, causal=True, kv_heads=2)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    assert variables["params"]["k"]["kernel"].value.shape == (8, 4)
    found = []
    step = jax.jit(partial(Attention(4, causal=True, kv_heads=2, cache=6).apply, mutable=["cache"]))
    for t in range(6):
        y, cache = step(variables, x[:, t : t + 1])
        variables = {**variables, **cache}
        found.append(y)
    assert variables["cache"]["keys"].shape == (2, 6, 2, 2)
    expected = layer.apply(variables, x)
    np.testing.assert_allclose(jnp.concatenate(found, 1), expected, rtol=1e-5, atol=1e-6)


def test_groups_that_do_not_divide_name_the_nearest():
    layer = Attention(6, kv_heads=4)
    with pytest.raises(InputError, match=r"heads=6 .*kv_heads=4.*\[2, 3\]"):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 2, 24)))
