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
