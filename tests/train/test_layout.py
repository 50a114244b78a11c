"""Where the state lies: every optimizer leaf beside its own parameter."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl.core.loading import load_file
from jaxdl.nn import dense
from jaxdl.optim import Adafactor, AdamW
from jaxdl.train import build
from jaxdl.train.layout import _like

small = load_file(__file__.replace("test_layout", "small"))
RULES = {"embed": "data"}


class Inner(nn.Module):
    """A network in a network, with a head of its own."""

    @nn.compact
    def __call__(self, x):
        return dense(24, ("mlp", "embed"), name="head")(x)


class Outer(nn.Module):
    """Two kernels whose paths end alike."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = dense(8, (None, "mlp"), name="stem")(x.reshape(x.shape[0], -1))
        x = dense(16, ("mlp", "embed"), name="zz")(Inner(name="a")(x)[:, :8])
        return dense(10, ("embed", None), name="head")(x)


@pytest.mark.parametrize("optim", [AdamW(), Adafactor(min_factored=8)], ids=["adamw", "adafactor"])
def test_optimizer_leaves_lie_like_their_own_parameters(optim):
    program = build(replace(small.base(), model=Outer(), optim=optim, rules=RULES))
    params = program.abstract.params
    assert params["head"]["kernel"].sharding.spec == PartitionSpec("data", None)
    assert params["a"]["head"]["kernel"].sharding.spec == PartitionSpec("model", "data")
    seen = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.abstract.opt):
        keys = [getattr(k, "key", None) for k in path if hasattr(k, "key")][1:]
        if keys[-2:] == ["head", "kernel"]:
            own = params["a"]["head"]["kernel"] if "a" in keys else params["head"]["kernel"]
            if leaf.shape == own.shape:
                assert leaf.sharding.spec == own.sharding.spec, path
                seen += 1
    assert seen or isinstance(optim, Adafactor)


@pytest.mark.parametrize(
    ("shape", "spec", "leaf", "want"),
    [
        ((8, 16), ("data", None), (8,), ("data",)),
        ((8, 16), ("data", None), (16,), (None,)),
        ((8, 16), ("data", None), (1,), (None,)),
        ((2, 16, 16), (None, "data", None), (2, 16), (None, None)),  # which 16 it kept is unknown
        ((2, 16, 16), (None, None, None), (2, 16), (None, None)),
        ((), (), (), ()),
    ],
)
def test_factored_leaves_take_the_axes_they_surely_kept(shape, spec, leaf, want):
    mesh = Mesh(jax.devices(), ("data",))
    like = _like(jnp.zeros(leaf), jnp.zeros(shape), NamedSharding(mesh, PartitionSpec(*spec)))
    assert tuple(like.spec) == want


def test_zero1_divides_the_optimizer_and_leaves_the_parameters_whole():
    for rules in ("dp+zero1", "auto+zero1"):
        state = build(replace(small.base(), rules=rules, mesh={"data": 8})).abstract
        assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))
        kernel = state.opt["main"][0].mu["hidden"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (64 // 8, 16)
