"""What the papers say of single models: sizes, initial values, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.models.zoo import create

KEY = jax.random.key(0)


def images(*shape):
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def count(model, x):
    params = jax.eval_shape(model.init, KEY, x)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.row("N-005")
def test_the_mlp_classifier_has_its_111146_parameters():
    assert count(create("mlp"), images(28, 28, 1)) == 111_146


@pytest.mark.row("G-004")
def test_the_small_gan_has_its_114064_and_100609_parameters():
    gan = create("gan")
    assert count(gan.generator, images(100)) == 114_064
    assert count(gan.critic, images(28, 28, 1)) == 100_609


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("resnet18", images(224, 224, 3), 11_689_512),
        ("resnet18_cifar", images(32, 32, 3), 11_173_962),
        ("gpt2", jax.ShapeDtypeStruct((1, 1024), jnp.int32), 124_439_808),
    ],
)
def test_published_sizes(name, x, expected):
    assert count(create(name), x) == expected


def test_gpt_starts_with_smaller_residual_projections():
    model = create("gpt_tiny", width=64, depth=8, heads=4)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 4), jnp.int32))["params"]
    layer = params["blocks"]["layers"]
    for box, std in (
        (params["tokens"]["embedding"], 0.02),
        (params["positions"]["embedding"], 0.02),
        (layer["attention"]["q"]["kernel"], 0.02),
        (layer["mlp"]["up"]["kernel"], 0.02),
        (layer["attention"]["out"]["kernel"], 0.005),
        (layer["mlp"]["down"]["kernel"], 0.005),
    ):
        assert box.value.std() == pytest.approx(std, rel=0.05)


def test_gpt_sees_no_future():
    model = create("gpt_tiny")
    tokens = jax.random.randint(KEY, (2, 8), 0, 256)
    variables = jax.jit(model.init)(KEY, tokens)
    changed = tokens.at[:, 5:].set(0)
    apply = jax.jit(model.apply)
    first, second = apply(variables, tokens), apply(variables, changed)
    np.testing.assert_array_equal(first[:, :5], second[:, :5])
    assert not jnp.array_equal(first[:, 5:], second[:, 5:])


def test_zero_init_starts_residual_blocks_as_their_shortcut():
    model, x = (
        create("resnet18_cifar", stages=(2,), width=4, zero_init=True),
        jnp.ones((1, 8, 8, 3)),
    )
    variables = jax.jit(model.init)(KEY, x)
    seen = jax.jit(lambda v: model.apply(v, x, capture_intermediates=True)[1])(variables)
    stem, block = (seen["intermediates"][k]["__call__"][0] for k in ("stem", "stage_0_block_1"))
    np.testing.assert_array_equal(stem, block)


@pytest.mark.parametrize(
    ("name", "kw", "x", "says"),
    [
        ("gpt_tiny", {}, jnp.ones((1, 65), int), "65 tokens .* 64 positions .*seq=65"),
        ("gpt_tiny", {"heads": 5}, jnp.ones((1, 4), int), "width=32 .* heads=5"),
        ("gpt_tiny", {"remat": "al"}, jnp.ones((1, 4), int), "unknown remat 'al'"),
        ("resnet18", {"stem": "cfar"}, jnp.ones((1, 8, 8, 3)), "did you mean 'cifar'"),
        ("mlp", {"dropout": 1.5}, jnp.ones((1, 4)), "dropout=1.5"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(name, kw, x, says):
    with pytest.raises(InputError, match=says):
        jax.eval_shape(create(name, **kw).init, KEY, x)


def test_noise_of_the_wrong_width_is_refused():
    with pytest.raises(InputError, match="width 3 for latent=100"):
        jax.eval_shape(create("gan").generator.init, KEY, jnp.ones((1, 3)))
