"""The convolution against `lax.conv_general_dilated`, forward and both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.flops import flops
from jaxdl.kernels.conv2d import conv2d, cpu, reference
from jaxdl.parallel import make_mesh

CASES = {
    # batch, height, width, channels, features; kernel, stride, padding
    "1x1": ((2, 5, 6, 3, 4), 1, (2, 2), 0),
    "few positions, odd sizes": ((1, 7, 9, 8, 40), 3, (2, 1), 1),
    "image below the window": ((2, 4, 3, 3, 4), 5, (1, 2), 2),
    "deep, in chunks": ((8, 9, 8, 64, 4), 3, (2, 2), 1),
    "cropped": ((2, 6, 7, 64, 90), 3, (2, 1), ((-1, 2), (1, -1))),
    "left to lax": ((2, 8, 9, 3, 4), 3, (1, 1), ((0, 1), (1, 0))),
}
EXACT = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}


def arrays(case, dtype="float32"):
    (*image, features), kernel, stride, padding = CASES[case]
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], image, dtype)
    w = jax.random.normal(keys[1], (kernel, kernel, image[-1], features), dtype)
    padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    return (x, w), (stride, padding)


def value_and_gradients(conv, place):
    """A function of x and w: the value, and both gradients under a fixed cotangent."""

    def run(x, w):
        y, pull = jax.vjp(lambda x, w: conv(x, w, *place, dimension_numbers=reference.NAMES), x, w)
        return y, *pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

    return run


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 200_000)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, "float32") for case in CASES),
        ("few positions, odd sizes", "bfloat16"),
        ("deep, in chunks", "float16"),
    ],
)
def test_value_and_gradients_are_those_of_lax(case, dtype):
    arguments, place = arrays(case, dtype)
    found = jax.jit(value_and_gradients(conv2d, place))(*arguments)
    wide = [a.astype("float32") for a in arguments]
    expected = jax.jit(value_and_gradients(jax.lax.conv_general_dilated, place))(*wide)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(
            mine.astype("float32") / scale, theirs / scale, atol=EXACT[dtype]
        )


@pytest.mark.parametrize("case", CASES)
def test_it_is_plain_convolution_elsewhere_and_counts_as_one(case):
    arguments, place = arrays(case)
    run, plain = (
        value_and_gradients(conv, place) for conv in (conv2d, jax.lax.conv_general_dilated)
    )
    traced = jax.jit(run).trace(*arguments)
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "stablehlo.dot_general" not in text
    counted = flops(traced.jaxpr).total()
    assert counted == flops(jax.make_jaxpr(plain)(*arguments)).total() > 0


def test_an_input_without_gradient_costs_none():
    (x, w), place = arrays("deep, in chunks")

    def loss(w, x):
        return conv2d(x, w, *place, dimension_numbers=reference.NAMES).sum()

    forward = flops(jax.make_jaxpr(loss)(w, x)).total()
    assert flops(jax.make_jaxpr(jax.grad(loss))(w, x)).total() == 2 * forward


def test_a_batch_over_several_devices_gives_the_same():
    (x, w), place = arrays("deep, in chunks")
    run = jax.jit(value_and_gradients(conv2d, place))
    split = NamedSharding(make_mesh(data=8), PartitionSpec("data"))
    found = run(jax.device_put(x, split), w)
    assert found[0].sharding.is_equivalent_to(split, 4)
    for mine, expected in zip(found, run(x, w), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


def test_a_gradient_penalty_differentiates_twice():
    (x, w), place = arrays("few positions, odd sizes")

    def penalty(conv, w):
        def critic(x):
            return jnp.tanh(conv(x, w, *place, dimension_numbers=reference.NAMES) / 10).sum()

        return (jax.grad(critic)(x) ** 2).sum()

    mine, theirs = (
        jax.jit(jax.grad(penalty, argnums=1), static_argnums=0)(conv, w)
        for conv in (conv2d, jax.lax.conv_general_dilated)
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "rest", [{"rhs_dilation": (2, 2)}, {"feature_group_count": 2}, {"dimension_numbers": None}]
)
def test_what_is_not_plain_is_left_to_lax(rest):
    x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // rest.get("feature_group_count", 1), 4))
    rest = {"dimension_numbers": reference.NAMES} | rest
    if rest["dimension_numbers"] is None:
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)

    def traced(conv):
        return str(jax.make_jaxpr(lambda x, w: conv(x, w, (1, 1), "SAME", **rest))(x, w))

    assert traced(conv2d) == traced(jax.lax.conv_general_dilated)
