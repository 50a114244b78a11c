import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from jaxdl.core.errors import InputError
from jaxdl.nn import (
    Attention,
    GeluMLP,
    SwiGLU,
    batch_norm,
    conv,
    dense,
    dropout,
    embed,
    layer_norm,
    rms_norm,
)

KEY = jax.random.key(0)
SEQ = (2, 4, 8)
LAYERS = {
    "dense": (dense(6), SEQ),
    "conv": (conv(6, 3), (2, 8, 8, 3)),
    "layer_norm": (layer_norm(), SEQ),
    "rms_norm": (rms_norm(), SEQ),
    "batch_norm": (batch_norm(True), (8, 4)),
    "attention": (Attention(2), SEQ),
    "gelu_mlp": (GeluMLP(16), SEQ),
    "swiglu": (SwiGLU(16), SEQ),
}


def normal(shape, dtype=jnp.float32):
    return jax.random.normal(KEY, shape, dtype)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


@pytest.mark.parametrize("name", LAYERS)
def test_bf16_comes_out_and_statistics_are_computed_in_f32(name):
    layer, shape = LAYERS[name]
    variables = nn.unbox(layer.init(KEY, normal(shape)))
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), variables["params"])
    rest = {kind: tree for kind, tree in variables.items() if kind != "params"}

    def apply(x):
        return layer.apply({"params": half, **rest}, x, mutable=list(rest))

    jaxpr, (out, state) = jax.make_jaxpr(apply, return_shape=True)(normal(shape, jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    precise = {"exp", "rsqrt", "reduce_sum", "reduce_max", "div"}
    for eqn in equations(jaxpr.jaxpr):
        kind = eqn.invars[0].aval.dtype if eqn.primitive.name in precise else jnp.float32
        if jnp.issubdtype(kind, jnp.floating):
            assert kind == jnp.float32, eqn


@pytest.mark.parametrize("name", LAYERS)
def test_every_dimension_of_a_parameter_is_named(name):
    layer, shape = LAYERS[name]
    params = jax.eval_shape(layer.init, KEY, normal(shape))["params"]
    for box in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nn.Partitioned)):
        assert len(box.names) == box.value.ndim


def test_convolutions_pad_evenly_like_the_published_networks():
    x = normal((1, 8, 8, 2))
    y, variables = conv(4, 3, 2).init_with_output(KEY, x)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = nn.unbox(variables)["params"]["kernel"]
    first = jnp.einsum("hwc,hwco->o", padded[0, :3, :3], kernel)
    assert y.shape == (1, 4, 4, 4)
    np.testing.assert_allclose(y[0, 0, 0], first, rtol=1e-5, atol=1e-6)


def test_an_even_kernel_names_its_neighbours():
    with pytest.raises(InputError, match="try 3 or 5"):
        conv(4, 4)


def test_layer_and_rms_norm_are_their_equations():
    x = 3 * normal(SEQ) + 1
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    y, _ = layer_norm().init_with_output(KEY, x)
    np.testing.assert_allclose(y, (x - mean) / jnp.sqrt(var + 1e-5), atol=1e-5)
    y, _ = rms_norm().init_with_output(KEY, x)
    square = jnp.square(x).mean(-1, keepdims=True)
    np.testing.assert_allclose(y, x / jnp.sqrt(square + 1e-6), atol=1e-5)


def test_batch_norm_momentum_is_the_decay():
    x = 3 * normal((64, 4)) + 1
    variables = batch_norm(True).init(KEY, x)
    y, new = batch_norm(True, momentum=0.8).apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.2 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.8 + 0.2 * x.var(0), rtol=1e-4)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-4)


def test_dropout_drops_with_its_rate_and_keeps_the_mean():
    x = jnp.ones(10_000)
    y = dropout(0.2, train=True).apply({}, x, rngs={"dropout": KEY})
    assert abs((y == 0).mean() - 0.2) < 0.02
    np.testing.assert_allclose(y[y != 0], 1.25, rtol=1e-6)
    assert dropout(0.2, train=False).apply({}, x) is x


@pytest.mark.parametrize("rate", [1.0, -0.1, 20])
def test_a_rate_is_a_probability_to_drop(rate):
    with pytest.raises(InputError, match="probability to drop"):
        dropout(rate, train=True)


def test_a_tied_embedding_is_the_transposed_table():
    table = embed(5, 3)
    variables = nn.unbox(table.init(KEY, jnp.zeros((1,), int)))
    x = normal((2, 3))
    logits = table.apply(variables, x, method="attend")
    np.testing.assert_allclose(logits, x @ variables["params"]["embedding"].T, rtol=1e-5)
