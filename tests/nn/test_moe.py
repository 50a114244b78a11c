import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.nn import MoE
from jaxdl.parallel import make_mesh, scope, shardings, unbox

B, T, D, E = 8, 6, 4, 8
X = jax.random.normal(jax.random.key(1), (B, T, D))


def made(layer, x=X):
    """Parameters, with biases that are not 0."""
    params = unbox(jax.jit(layer.init)(jax.random.key(0), x))["params"]
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)


@partial(jax.jit, static_argnums=0)
def apply(layer, params, x=X):
    y, sown = layer.apply({"params": params}, x, mutable="losses")
    return y, {name: value for name, (value,) in sown["losses"].items()}


@partial(jax.jit, static_argnums=1)
def expert(params, e, x):
    """One network."""
    hidden = nn.gelu(x @ params["up_kernel"][e] + params["up_bias"][e][None, None])
    return hidden @ params["down_kernel"][e] + params["down_bias"][e][None, None]


def test_with_room_for_all_it_is_the_mixture():
    layer = MoE(5, experts=4, top_k=4, capacity=1.0)
    params = made(layer)
    probs = jax.nn.softmax(X @ params["router"])
    expected = sum(probs[..., e, None] * expert(params, e, X) for e in range(4))
    y, sown = apply(layer, params)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert not sown["dropped"].any()
    np.testing.assert_allclose(sown["balance_loss"], 1, rtol=1e-6)


def test_a_choice_of_one_is_weighted_by_its_probability():
    layer = MoE(5, experts=4, top_k=1, capacity=4.0)
    params = made(layer)
    probs = jax.nn.softmax(X @ params["router"])
    chosen = jax.nn.one_hot(probs.argmax(-1), 4) * probs
    expected = sum(chosen[..., e, None] * expert(params, e, X) for e in range(4))
    y, sown = apply(layer, params)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    share = jax.nn.one_hot(probs.argmax(-1), 4).mean(1)
    np.testing.assert_allclose(sown["balance_loss"], 4 * (share * probs.mean(1)).sum(-1), rtol=1e-5)


def test_the_latest_positions_are_dropped_and_add_nothing():
    layer = MoE(5, experts=2, top_k=1, capacity=1.0)
    params = made(layer) | {"router": jnp.array([[1.0, 0.0]] * D)}
    x = jnp.abs(X)  # all choose the first, which has 3 places
    y, sown = apply(layer, params, x)
    assert (y[:, :3] != 0).any(-1).all()
    np.testing.assert_array_equal(y[:, 3:], 0)
    np.testing.assert_array_equal(sown["dropped"], 0.5)
    assert (sown["balance_loss"] > 1).all()


def test_routing_is_even_where_the_router_cannot_tell():
    layer = MoE(5, experts=4, top_k=1)
    params = made(layer) | {"router": jnp.zeros((D, 4))}
    _, sown = apply(layer, params)
    np.testing.assert_allclose(sown["balance_loss"], 1, rtol=1e-6)
    np.testing.assert_allclose(sown["router_z_loss"], np.log(4) ** 2, rtol=1e-6)


def test_nothing_depends_on_the_future():
    layer = MoE(5, experts=4, top_k=2, capacity=0.5)
    params = made(layer)
    y, sown = apply(layer, params)
    assert sown["dropped"].any()
    changed, _ = apply(layer, params, X.at[:, 4:].set(9.0))
    np.testing.assert_array_equal(y[:, :4], changed[:, :4])


@pytest.mark.parametrize("size", [2, 8])
def test_experts_on_several_devices_are_sent_for_and_give_the_same(size):
    layer, mesh = MoE(16, experts=E), make_mesh(expert=size, data=8 // size)
    boxed = jax.eval_shape(layer.init, jax.random.key(0), X)["params"]

    def loss(params, x):
        y, sown = apply(layer, params, x)
        return (y**2).sum() + sown["balance_loss"].sum(), y

    def divided(params, x):
        with scope(mesh, "auto"):
            return jax.grad(loss, has_aux=True)(params, x)

    rows = NamedSharding(mesh, PartitionSpec(("data", "expert")))
    lies = shardings(boxed, mesh, "auto")
    args = jax.device_put((made(layer), X), (lies, rows))
    step = jax.jit(divided, in_shardings=(lies, rows), out_shardings=(lies, rows))
    step = step.lower(*args).compile()
    expected = jax.jit(jax.grad(loss, has_aux=True))(made(layer), X)
    for a, b in zip(*map(jax.tree.leaves, (step(*args), expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    found = re.findall(r"(all-gather|all-to-all|collective-permute)[-\w]*\(", step.as_text())
    assert set(found) == {"all-to-all"}


@pytest.mark.parametrize("top_k", [0, 5])
def test_more_choices_than_experts_are_refused(top_k):
    with pytest.raises(InputError, match=f"experts=4.*top_k={top_k}"):
        jax.eval_shape(MoE(5, experts=4, top_k=top_k).init, jax.random.key(0), X)
