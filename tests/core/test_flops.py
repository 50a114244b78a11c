import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from jaxdl.core.flops import UNBOUNDED, flops
from jaxdl.parallel import make_mesh

X = jnp.ones((4, 4))
ONE = 2 * 4 * 4 * 4


def total(fn, *args):
    return flops(jax.make_jaxpr(fn)(*args)).total()


def repeated(x):
    return jax.lax.scan(lambda c, _: (c @ X, None), x, length=5)[0]


def kernel(x):
    def body(x, out):
        out[...] = x[...] @ x[...]

    block = pl.BlockSpec((4, 4), lambda i, j: (0, 0))
    return pl.pallas_call(
        body,
        jax.ShapeDtypeStruct((4, 4), x.dtype),
        grid=(2, 3),
        in_specs=[block],
        out_specs=block,
        interpret=True,
    )(x)


def branches(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ X @ X, lambda x: x @ X, x)


def sharded(x):
    rows = PartitionSpec("data")
    return jax.shard_map(
        lambda x: x @ X, mesh=make_mesh(data=2, model=4), in_specs=rows, out_specs=rows
    )(x)


def batched(x):
    return jnp.einsum("bij,bjk->bik", jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6)))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda x: x @ X, ONE),
        (jax.jit(lambda x: x @ X), ONE),
        (jax.checkpoint(lambda x: x @ X), ONE),
        (repeated, 5 * ONE),
        (branches, 2 * ONE),
        (kernel, 6 * ONE),
        (batched, 2 * 3 * 4 * 5 * 6),
        (jax.nn.relu, 0),
        (jax.grad(lambda x: (x @ X).sum()), 2 * ONE),
    ],
)
def test_products_count_as_often_as_they_run(fn, expected):
    assert total(fn, X) == expected


def test_a_shard_map_counts_all_its_shards():
    # The model axis repeats the work, and repeated work is work.
    assert total(sharded, X) == 4 * ONE


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_cost_the_same(stride):
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 6))

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    forward = 2 * (2 * (8 // stride) ** 2) * (3 * 3 * 3) * 6
    assert total(conv, x, w) == forward
    _, pull = jax.vjp(conv, x, w)
    assert total(pull, conv(x, w)) == 2 * forward


def test_grouped_convolutions_see_only_their_group():
    x, w = jnp.ones((1, 8, 8, 6)), jnp.ones((3, 3, 1, 6))

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=6
        )

    assert total(conv, x, w) == 2 * 8 * 8 * 9 * 6


def test_a_while_counts_once_and_says_so():
    def loop(x):
        with jax.named_scope("decode"):
            return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ X, x)

    assert flops(jax.make_jaxpr(loop)(X)) == {f"decode/{UNBOUNDED}": ONE}


def test_name_stacks_are_joined_through_nested_jaxprs():
    def fn(x):
        with jax.named_scope("outer"):
            return jax.lax.scan(inner, x, length=3)[0]

    def inner(x, _):
        with jax.named_scope("inner"):
            return x @ X, None

    assert flops(jax.make_jaxpr(fn)(X)) == {"outer/inner": 3 * ONE}
