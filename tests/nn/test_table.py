import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxdl.core.errors import InputError
from jaxdl.models import zoo
from jaxdl.nn import table

KEY = jax.random.key(0)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def gpt_table(depth):
    model = zoo.create("gpt_tiny", depth=depth)
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    return table(model.init, KEY, tokens), size(jax.eval_shape(model.init, KEY, tokens)["params"])


@pytest.mark.row("I-020")
@pytest.mark.parametrize("name", ["mlp", "resnet18", "resnet18_cifar"])
def test_the_total_is_the_size_of_the_parameter_tree(name):
    model, x = zoo.create(name), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(model.init, KEY, x)["params"]
    found = table(model.init, KEY, x)
    assert found.params == found.rows[0].params == size(params)
    assert found.flops == sum(row.flops for row in found.rows) > 0
    leaves = [row for row in found.rows if row.type in ("Dense", "Conv", "BatchNorm")]
    assert sum(row.params for row in leaves) == found.params
    assert all(row.flops > 0 for row in leaves if row.type in ("Dense", "Conv"))


@pytest.mark.row("I-020")
def test_resnet18_has_its_published_multiply_adds():
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = table(zoo.create("resnet18").init, KEY, x)
    assert found.flops / 2 == pytest.approx(1.814e9, rel=1e-3)
    assert str(found).splitlines()[-1].split() == ["total", "11,689,512", f"{found.flops:,}"]


@pytest.mark.row("I-020")
def test_a_scanned_gpt_costs_depth_times_a_layer_plus_its_head():
    B, T, D, F, V = 2, 8, 32, 128, 256
    layer = 2 * B * T * (4 * D * D + 2 * D * F) + 2 * B * T * T * D * 2
    for depth in (1, 3):
        found, params = gpt_table(depth)
        assert found.params == params
        assert found.flops == depth * layer + 2 * B * T * D * V
        rows = {row.path: row for row in found.rows}
        assert len(rows) == len(found.rows)
        assert rows["GPT/blocks/layers/attention/q"].flops == depth * 2 * B * T * D * D
        assert rows["GPT/blocks/layers/attention/q"].shape == (B, T, D)
        assert rows["GPT/blocks/layers/attention"].flops == depth * 2 * B * T * T * D * 2
        assert rows["GPT/tokens.attend"].flops == 2 * B * T * D * V


def test_two_models_in_one_function_add_up():
    gan = zoo.create("gan")
    z = jax.ShapeDtypeStruct((2, 100), jnp.float32)
    g = jax.eval_shape(gan.generator.init, KEY, z)
    image = jax.eval_shape(gan.generator.apply, g, z)
    c = jax.eval_shape(gan.critic.init, KEY, image)

    def both(g, c, z):
        return gan.critic.apply(c, gan.generator.apply(g, z))

    found = table(both, g, c, z)
    assert found.params == 114_064 + 100_609
    assert [row.path for row in found.rows if "/" not in row.path] == ["Generator", "Critic"]


def test_nothing_to_show_is_an_error():
    with pytest.raises(InputError, match="no module was called"):
        table(jnp.sin, 1.0)


def test_a_while_is_flagged():
    class Host(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jax.lax.while_loop(lambda x: x[0] < 9, lambda x: x @ jnp.ones((2, 2)), x)

    found = table(lambda x: Host().apply({}, x), jnp.ones(2))
    assert found.unbounded
    assert (found.flops, found.rows[0].flops) == (8, 8)
    assert "at least" in str(found)
