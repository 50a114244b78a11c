import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.parallel import make_mesh, per_shard, resolve, scope

IN, OUT = (("batch", None), (None, "act_mlp")), ("batch", "act_mlp")
X = np.arange(32, dtype=np.float32).reshape(8, 4) / 32
W = np.arange(32, dtype=np.float32).reshape(4, 8) / 32


def product(x, w):
    return jnp.sin(x @ w)


def test_no_mesh_is_the_function_itself():
    np.testing.assert_array_equal(per_shard(product, IN, OUT)(X, W), product(X, W))


def test_shards_see_blocks_and_give_the_same_numbers_and_gradients():
    mesh = make_mesh(data=4, model=2)
    blocks = []

    def local(x, w):
        blocks.append((x.shape, w.shape))
        return product(x, w)

    def loss(w, x):
        with scope(mesh, resolve("dp") | {"act_mlp": "model"}):
            return (per_shard(local, IN, OUT)(x, w) ** 2).sum()

    whole = NamedSharding(mesh, PartitionSpec())
    found = jax.jit(jax.value_and_grad(loss), in_shardings=whole)(W, X)
    expected = jax.value_and_grad(lambda w: (product(X, w) ** 2).sum())(W)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    assert set(blocks) == {((2, 4), (4, 4))}


def test_several_results_have_a_list_of_names():
    mesh = make_mesh()

    def both(x):
        with scope(mesh, "dp"):
            return per_shard(lambda x: (x, x.sum(1)), [("batch", None)], [IN[0], ("batch",)])(x)

    y, total = jax.jit(both, in_shardings=NamedSharding(mesh, PartitionSpec("data")))(X)
    np.testing.assert_array_equal(y, X)
    np.testing.assert_allclose(total, X.sum(1))


def test_a_block_that_does_not_divide_is_named():
    with (
        scope(make_mesh(), "dp"),
        pytest.raises(InputError, match=r"argument 0 of product.*size 6"),
    ):
        per_shard(product, IN, OUT)(jnp.ones((6, 4)), W)
