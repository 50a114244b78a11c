"""What the papers say of single models: sizes, initial values, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.models.gpt import from_huggingface
from jaxdl.models.zoo import create

KEY = jax.random.key(0)
TOKENS = jax.ShapeDtypeStruct((1, 50), jnp.int32)


def images(*shape):
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def count(model, x):
    params = jax.eval_shape(model.init, KEY, x)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.row("N-005")
def test_the_mlp_classifier_has_its_111146_parameters():
    assert count(create("mlp"), images(28, 28, 1)) == 111_146


@pytest.mark.row("N-008", "X-047")
def test_lenet_has_61706_parameters_with_padding_and_44426_without():
    x = jax.ShapeDtypeStruct((25, 28, 28, 1), jnp.float32)
    model = create("lenet5", pad=0)
    assert count(create("lenet5"), x) == count(model, images(32, 32, 1)) == 61_706
    assert count(model, x) == 44_426
    logits, _ = jax.eval_shape(model.init_with_output, KEY, x)
    assert logits.shape == (25, 10)


@pytest.mark.row("G-004")
def test_the_small_gan_has_its_114064_and_100609_parameters():
    gan = create("gan")
    assert count(gan.generator, images(100)) == 114_064
    assert count(gan.critic, images(28, 28, 1)) == 100_609


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("resnet18_cifar", images(32, 32, 3), 11_173_962),
        *(
            pytest.param(name, images(224, 224, 3), size, marks=pytest.mark.row(row))
            for name, size, row in (
                ("resnet18", 11_689_512, "N-015"),
                ("resnet34", 21_797_672, "N-016"),
                ("resnet50", 25_557_032, "N-017"),
                ("resnet101", 44_549_160, "N-018"),
                ("resnet152", 60_192_808, "N-019"),
                ("vit_ti16", 5_717_416, "N-036"),
                ("vit_s16", 22_050_664, "N-036"),
                ("vit_b16", 86_567_656, "N-036"),
                ("vit_l16", 304_326_632, "N-036"),
            )
        ),
        *(
            pytest.param(name, TOKENS, size, marks=pytest.mark.row(row))
            for name, size, row in (
                ("gpt2", 124_439_808, "N-049"),
                ("gpt2_medium", 354_823_168, "N-049"),
                ("gpt2_large", 774_030_080, "N-049"),
                ("gpt2_xl", 1_557_611_200, "N-049"),
                ("lstm", 9_266_960, "N-058"),
            )
        ),
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
        ("gpt_tiny", {"remat_segment": 3}, jnp.ones((1, 4), int), r"divisors: \[1, 2\]"),
        ("lstm", {"depth": 0}, jnp.ones((1, 4), int), "depth=0"),
        ("resnet18", {"stem": "cfar"}, jnp.ones((1, 8, 8, 3)), "did you mean 'cifar'"),
        ("vit_s16", {}, jnp.ones((1, 28, 28, 1)), r"patch=16 .* 28x28 .*\[7, 14\]"),
        ("lenet5", {}, jnp.ones((1, 8, 8, 1)), "at least 16x16"),
        ("mlp", {"dropout": 1.5}, jnp.ones((1, 4)), "dropout=1.5"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(name, kw, x, says):
    with pytest.raises(InputError, match=says):
        jax.eval_shape(create(name, **kw).init, KEY, x)


def test_a_vit_has_positions_for_one_size_of_image():
    model = create("vit_ti16", patch=4, width=8, depth=1, heads=2)
    variables = jax.eval_shape(model.init, KEY, images(8, 8, 3))
    with pytest.raises(InputError, match="9 patches of 4x4, but the positions are for 4"):
        jax.eval_shape(model.apply, variables, images(12, 12, 3))


def test_the_plain_twin_of_a_resnet_has_no_shortcut():
    x, kw = images(16, 16, 3), {"stages": (1, 1), "width": 4}
    for skip in (True, False):
        model = create("resnet50", **kw, skip=skip)
        params = jax.eval_shape(model.init, KEY, x)["params"]
        assert ("shortcut" in params["stage_1_block_0"]) == skip


def test_noise_of_the_wrong_width_is_refused():
    with pytest.raises(InputError, match="width 3 for latent=100"):
        jax.eval_shape(create("gan").generator.init, KEY, jnp.ones((1, 3)))


def test_a_weight_that_is_missing_is_named():
    names = ("wte.weight", "h.0.ln_1.weight", "h.0.ln_1.beta")
    with pytest.raises(InputError, match=r"lack 'h.0.ln_1.bias'; did you mean 'h.0.ln_1.beta"):
        from_huggingface({f"transformer.{name}": np.zeros((5, 4)) for name in names})


def test_an_output_layer_of_its_own_is_refused():
    weights = {"transformer.wte.weight": np.zeros((5, 4)), "lm_head.weight": np.ones((5, 4))}
    with pytest.raises(InputError, match=r"'lm_head.weight' is not 'wte.weight'"):
        from_huggingface(weights)
