"""Laws that hold for every model of the zoo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.core import InputError, dump, load, tree
from jaxdl.models.zoo import ZOO, create
from jaxdl.parallel import make_mesh, scope, shardings

KEY = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0}
"""Compiles in two thirds of the time what is run once."""
GPT = {"vocab": 11, "width": 8, "depth": 2, "heads": 2, "seq": 6, "dropout": 0.1}
LSTM = {"vocab": 11, "width": 4, "hidden": 8, "depth": 2, "dropout": 0.1}
RESNET = {"stages": (1, 1), "width": 4, "classes": 5}
VIT = {"patch": 4, "width": 8, "depth": 2, "heads": 2, "classes": 5, "dropout": 0.1}
GAN = create("gan")
IMAGES = jax.random.normal(KEY, (4, 16, 16, 1))
TOKENS = jax.random.randint(KEY, (2, 5), 0, 11)
CASES = {
    # name: model, input, output shape, constraints in the lowered text
    "mlp": (create("mlp", widths=(8, 4)), IMAGES, (4, 10), 3),
    "resnet18": (create("resnet18", **RESNET), IMAGES, (4, 5), 4),
    "resnet18_cifar": (create("resnet18_cifar", **RESNET, zero_init=True), IMAGES, (4, 5), 4),
    "resnet50": (create("resnet50", **RESNET | {"stages": (1,)}), IMAGES, (4, 5), 3),
    "lenet5": (create("lenet5", classes=5, pad=0), IMAGES, (4, 5), 1),
    "vit_ti16": (create("vit_ti16", **VIT), IMAGES, (4, 5), 7),
    "gpt2": (create("gpt2", **GPT, remat="full"), TOKENS, (2, 5, 11), 7),
    "gpt_tiny": (create("gpt_tiny", **GPT), TOKENS, (2, 5, 11), 7),
    "lstm": (create("lstm", **LSTM), TOKENS, (2, 5, 11), 4),
    "gan/generator": (GAN.generator, jax.random.normal(KEY, (2, 100)), (2, 28, 28, 1), 2),
    "gan/critic": (GAN.critic, IMAGES, (4,), 1),
}
every_model = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def start(model, x):
    return nn.unbox(jax.jit(model.init, compiler_options=QUICK)(KEY, x))


def forward(model, variables, x):
    """Output in training mode, with fixed random streams."""
    rngs = {"dropout": jax.random.key(1)}
    return model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])[0]


def test_the_sweep_covers_the_zoo():
    names = {name.split("/")[0] for name in CASES}
    assert {ZOO[name].target for name in names} == {part.target for part in ZOO.values()}


@pytest.mark.row("C-002")
@every_model
def test_a_model_is_a_pure_function(case):
    model, x, shape, _ = case
    before = dump(model)
    variables = start(model, x)

    def loss(variables):
        y = forward(model, variables, x)
        return (y**2).mean(), y

    step = jax.value_and_grad(loss, has_aux=True)
    with jax.checking_leaks():
        (_, abstract), _ = jax.eval_shape(step, variables)
    jitted = jax.jit(step, compiler_options=QUICK)
    (_, y), grads = jitted(variables)
    (_, again), _ = jitted(variables)
    assert y.shape == abstract.shape == shape
    np.testing.assert_array_equal(y, again)
    np.testing.assert_allclose(y, forward(model, variables, x), rtol=1e-4, atol=1e-4)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads["params"]))
    assert any((g != 0).any() for g in jax.tree.leaves(grads["params"]))
    assert dump(model) == before


@pytest.mark.row("C-002")
@every_model
def test_a_model_maps_over_stacked_inputs(case):
    model, x, _, _ = case

    @jax.jit
    def both(variables):
        apply = functools.partial(model.apply, variables)
        return jax.vmap(apply)(jnp.stack([x, x[::-1]])), apply(x)

    (first, second), expected = both(start(model, x))
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second, expected[::-1], rtol=1e-4, atol=1e-5)


@every_model
def test_bf16_parameters_and_input_give_bf16(case):
    model, x, _, _ = case
    variables = nn.unbox(jax.eval_shape(model.init, KEY, x))

    def half(x):
        return x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def apply(variables, x):
        params = jax.tree.map(half, variables["params"])
        rngs = {"dropout": KEY}
        return model.apply(
            {**variables, "params": params}, half(x), train=True, rngs=rngs, mutable=["batch_stats"]
        )

    out, state = jax.eval_shape(apply, variables, x)
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))


@every_model
def test_every_constraint_reaches_the_lowered_text(case):
    model, x, _, expected = case
    mesh = make_mesh(jax.devices()[:2])

    def apply(variables, x):
        with scope(mesh, "dp"):
            return model.apply(variables, x)

    variables = nn.unbox(jax.eval_shape(model.init, KEY, x))
    text = jax.jit(apply).lower(variables, x).as_text()
    tables = sum("embedding" in path for path in tree.flatten(variables["params"]))
    assert text.count("sdy.sharding_constraint") == expected + tables
    assert text.count('<@mesh, [{"data"}') == expected


@every_model
def test_every_parameter_is_named_and_placed(case):
    model, x, _, _ = case
    mesh = make_mesh()

    def init(x):
        with scope(mesh, "dp"):
            return model.init(KEY, x)["params"]

    boxed = jax.eval_shape(init, jnp.concatenate([x] * 8))
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(isinstance(leaf, nn.Partitioned) for leaf in leaves)
    placed = jax.tree.leaves(shardings(boxed, mesh, "dp"))
    assert len(placed) == len(leaves)


@pytest.mark.parametrize("name", ZOO)
def test_a_model_is_a_value_that_serialises(name):
    model = create(name)
    assert load(dump(model)) == model == create(name)
    assert hash(model) == hash(create(name))


@pytest.mark.parametrize(
    ("name", "kw", "says"),
    [
        ("gtp2", {}, "unknown model 'gtp2'; did you mean 'gpt2'"),
        ("gpt2", {"dept": 3}, "GPT has no parameter 'dept'; did you mean 'depth'"),
    ],
)
def test_unknown_names_show_the_nearest(name, kw, says):
    with pytest.raises(InputError, match=says):
        create(name, **kw)
