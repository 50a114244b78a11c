"""Where a program's state lies, and what its step sends between devices."""

from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jaxdl.core import tree
from jaxdl.core.loading import load_file
from jaxdl.models.gan import GAN
from jaxdl.models.gpt import GPT
from jaxdl.models.lenet import LeNet
from jaxdl.models.lstm import LSTMLanguageModel
from jaxdl.models.mlp import MLP
from jaxdl.models.zoo import ZOO, create
from jaxdl.parallel import shardings, unbox
from jaxdl.parallel.mesh import AXES
from jaxdl.parallel.strategies import PARAMETERS
from jaxdl.plan import audit, shard_bytes
from jaxdl.plan.chips import CHIPS
from jaxdl.train import build

small = load_file(__file__.replace("test_audit", "small"))


def mesh_of(**sizes):
    every = dict.fromkeys(AXES, 1) | sizes
    return AbstractMesh(tuple(every.values()), tuple(every))


def placed(model, inputs, mesh):
    """The parameters' shapes with their shardings under `auto`."""
    boxed = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    where = shardings(boxed, mesh, "auto")
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), unbox(boxed), where
    )


@pytest.mark.row("C-021", "N-050")
@pytest.mark.parametrize(("axes", "devices"), [({"fsdp": 64, "model": 8}, 512), ({"fsdp": 64}, 64)])
def test_gpt_3_fits_the_chips_that_it_is_divided_over(axes, devices, capsys):
    """The second is the least of them that hold its state with room for activations."""
    params = placed(create("gpt3"), jnp.zeros((1, 8), jnp.int32), mesh_of(**axes))
    assert tree.size(params) == pytest.approx(175e9, rel=0.01)
    # Master parameters and two moments of AdamW.
    state, room = 3 * shard_bytes(params), CHIPS["TPU v5"].memory
    with capsys.disabled():
        told = " x ".join(f"{name}={size}" for name, size in axes.items())
        print(f"\nGPT-3 on v5p, {told}: {state / 1e9:.2f} GB of state per device")
    assert state == pytest.approx(3 * 4 * 175e9 / devices, rel=0.02)
    assert state < room / 2


def inputs_of(model):
    """What the parts of a model of the zoo take."""
    if isinstance(model, GAN):
        return [(model.generator, jnp.zeros((1, 100))), (model.critic, jnp.zeros((1, 28, 28, 1)))]
    if isinstance(model, GPT | LSTMLanguageModel):
        return [(model, jnp.zeros((1, 8), jnp.int32))]
    channels = 1 if isinstance(model, MLP | LeNet) else 3
    return [(model, jnp.zeros((1, 32, 32, channels)))]


@pytest.mark.row("C-018")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * ("resnet1" in n)) for n in sorted(ZOO)]
)
def test_every_parameter_of_every_model_matches_a_rule(name):
    for part, inputs in inputs_of(create(name)):
        boxed = jax.eval_shape(part.init, jax.random.key(0), inputs)["params"]
        leaves = jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names"))
        assert all(set(leaf.names) <= {*PARAMETERS, None} for leaf in leaves)
        where = jax.tree.leaves(shardings(boxed, mesh_of(), "auto"))
        assert len(where) == len(leaves)


@pytest.mark.row("C-024")
def test_fsdp_divides_parameters_and_optimizer_state():
    model = replace(small.EXPERIMENT.model, width=512, vocab=512)
    program = build(small.experiment(model, mesh={"fsdp": 8}))
    held = program.abstract.params, program.abstract.opt
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
    assert whole / 8 <= shard_bytes(held) <= 1.02 * whole / 8
    state = program.init()
    real = Counter()
    for leaf in jax.tree.leaves((state.params, state.opt)):
        for shard in leaf.addressable_shards:
            real[shard.device] += shard.data.nbytes
    assert set(real.values()) == {shard_bytes(held)} and len(real) == 8


@pytest.fixture(scope="module")
def tensor_parallel():
    return small.audited(small.experiment(remat="none", mesh={"data": 2, "model": 4}), "cpu:8")


@pytest.mark.row("C-021")
def test_tensor_parallel_parameters_lie_in_equal_parts(tensor_parallel):
    program, _, found = tensor_parallel
    divided = {"heads", "kv", "mlp", "vocab"}
    for row in found.parameters:
        parts = [4 if name in divided else 1 for name in row.names]
        leaf = tree.flatten(program.abstract.params)[row.path]
        held = jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        shapes = {shard.data.shape for shard in held.addressable_shards}
        assert shapes == {tuple(np.array(leaf.shape) // parts)}, row.path
        assert row.bytes == leaf.size * 4 // np.prod(parts)


@pytest.mark.row("C-021")
def test_attention_and_mlp_each_take_one_all_reduce_per_direction(tensor_parallel):
    program, plan, _ = tensor_parallel
    along = [one for one in plan.collectives if one.axes == ("model",)]
    assert {one.kind for one in along} == {"all-reduce"}
    for part in ("attention", "mlp"):
        for backward in (False, True):
            trips = [
                one.trips
                for one in along
                if f"/{part}/" in one.op and ("transpose(" in one.op) is backward
            ]
            assert sum(trips) == program.experiment.model.depth, (part, backward)


def test_large_tensors_that_every_device_holds_are_found(tensor_parallel):
    program, plan, found = tensor_parallel
    assert found.whole == {}
    whole = audit(program, plan, large=4000).whole
    # The table of positions [32, 64] is divided over no axis here; that of tokens is.
    assert whole["params/positions/embedding"] == 4 * 32 * 64
    assert any(path.startswith("opt/") for path in whole)
    assert not any("tokens" in path for path in whole)


def test_data_parallel_gradients_take_one_all_reduce():
    model = replace(small.EXPERIMENT.model, vocab=64)
    program, plan, found = small.audited(small.experiment(model, mesh={"data": 8}), "cpu:8")
    (traffic,) = found.traffic
    gradient = shard_bytes(program.abstract.params)
    assert traffic.axes == ("data",)
    assert traffic.minimum == pytest.approx(2 * gradient * 7 / 8, rel=1e-4)
    assert 1 <= traffic.ratio <= 1.1
    assert plan.fits is None and plan.memory["parameters"] == gradient


@pytest.mark.parametrize("kind", ["1f1b", pytest.param("gpipe", marks=pytest.mark.slow)])
def test_a_pipeline_hands_on_activations_and_adds_up_what_all_stages_hold(kind):
    model = replace(small.EXPERIMENT.model, depth=4)
    exp = small.experiment(model, mesh={"pipe": 4}, accumulate=64, batch=64, pipeline=kind)
    program, plan, found = small.audited(exp, "cpu:4")
    (traffic,) = [t for t in found.traffic if t.bytes > 1000]
    held = tree.flatten(program.abstract.params)
    shared = sum(4 * leaf.size for path, leaf in held.items() if "blocks" not in path)
    features = 4 * 64 * 32 * 64
    assert traffic.axes == ("pipe",)
    assert traffic.minimum == pytest.approx(2 * features + 2 * shared * 3 / 4, rel=1e-4)
    assert 1 <= traffic.ratio <= 1.1
    sent = [one for one in plan.collectives if one.bytes == features // 64]
    # Each way once per tick; those of the bubble carry nothing.
    assert {one.kind for one in sent} == {"collective-permute"}
    assert sum(one.trips for one in sent) == 2 * (64 + 3)
