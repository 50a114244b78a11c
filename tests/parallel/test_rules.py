import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.parallel import constrain, make_mesh, resolve, scope, shardings, spec, unbox
from jaxdl.parallel.strategies import ACTIVATIONS, METHODS, NONE, PARAMETERS, STRATEGIES

DP, FSDP = resolve("dp"), resolve("fsdp")

BOXED = {"w": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((16, 12), float), ("embed", "mlp"))}


def lowered(fn, mesh, rules, *args):
    def traced(*args):
        with scope(mesh, rules):
            return fn(*args)

    return jax.jit(traced).lower(*args).as_text()


def test_the_vocabularies_are_disjoint_and_every_strategy_speaks_them():
    assert not PARAMETERS.keys() & ACTIVATIONS.keys()
    assert all(strategy.keys() <= NONE.keys() for strategy in STRATEGIES.values())
    assert resolve("auto").keys() == NONE.keys()


def test_strategies_are_put_together_name_by_name():
    assert resolve("dp")["batch"] == "data"
    assert resolve("tp+fsdp+dp")["batch"] == ("data", "fsdp")
    assert resolve("auto+sp")["norm_time"] == ("seq", "model")
    assert resolve("ulysses+dp")["context"] == "all_to_all"


def test_resolve_takes_a_dict_for_changes_to_auto():
    assert resolve({"mlp": ["data", "model"]}) == resolve("auto") | {"mlp": ("data", "model")}
    assert resolve({}).keys() - METHODS.keys() == PARAMETERS.keys() | ACTIVATIONS.keys() | {
        "optimizer"
    }


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("pd", "unknown strategy 'pd'"),
        ("fsdp+tq", "unknown strategy 'tq'"),
        ({"embd": "data"}, "'embd'; did you mean 'embed'"),
        ({"context": "rings"}, "context is 'rings'; did you mean 'ring'"),
    ],
)
def test_resolve_names_the_nearest(rules, says):
    with pytest.raises(InputError, match=says):
        resolve(rules)


def test_shardings_follow_the_rules_and_unbox_the_tree():
    mesh = make_mesh(fsdp=4, model=2)
    found = shardings(BOXED | {"plain": unbox(BOXED["w"])}, mesh, FSDP | {"mlp": "model"})
    assert found["w"] == NamedSharding(mesh, PartitionSpec("fsdp", "model"))
    assert found["plain"].spec == PartitionSpec(None, None)
    assert unbox(BOXED)["w"].shape == (16, 12)


@pytest.mark.parametrize(
    ("names", "rules", "says"),
    [
        (("embed", "mlp"), FSDP | {"mlp": "fsdp"}, "parameter a/w .*'embed' and 'mlp' .* 'fsdp'"),
        (("embed", "mlp"), FSDP | {"mlp": "modle"}, "parameter a/w: .*'modle'.*mean 'model'"),
        (("mlp", "embed"), FSDP, r"parameter a/w: dimension 1 \('embed'\) of size 12 .* 8 parts"),
        (("embed", "mpl"), FSDP, "parameter a/w: unknown logical name 'mpl'; did you mean 'mlp'"),
        (("embed", "act_mlp"), FSDP, "parameter a/w: unknown logical name 'act_mlp'"),
        (("embed",), FSDP, "parameter a/w: 2 dimensions, but 1 names"),
    ],
)
def test_a_parameter_that_cannot_be_placed_is_named(names, rules, says):
    tree = {"a": {"w": nn.LogicallyPartitioned(BOXED["w"].value, names)}}
    with pytest.raises(InputError, match=says):
        shardings(tree, make_mesh(fsdp=8), rules)


def test_the_size_error_says_what_would_work():
    with pytest.raises(InputError, match="4 parts or size 16 would, or map 'mlp' to None"):
        spec(("mlp",), (12,), make_mesh(), DP | {"mlp": "data"}, "x")


def test_constrain_lowers_under_scope_and_is_the_identity_elsewhere():
    x, names = jnp.ones((8, 4)), ("batch", None)
    assert constrain(x, names) is x
    text = lowered(lambda x: constrain(x, names), make_mesh(), "dp", x)
    assert text.count("sdy.sharding_constraint") == 1
    assert '[{"data"}, {}]' in text


def test_constrain_leaves_axes_of_a_surrounding_shard_map_alone():
    mesh = make_mesh(data=2, model=4)
    rules = resolve("dp") | {"act_mlp": "model"}

    def inner(x):
        return constrain(x, ("batch", "act_mlp"))

    def half(x):
        rows = PartitionSpec("data")
        fn = jax.shard_map(inner, in_specs=rows, out_specs=rows, axis_names={"data"})
        return fn(x)

    def whole(x):
        both = PartitionSpec("data", "model")
        return jax.shard_map(inner, in_specs=both, out_specs=both)(x)

    assert '[{}, {"model"}]' in lowered(half, mesh, rules, jnp.ones((8, 4)))
    assert "sharding_constraint" not in lowered(whole, mesh, rules, jnp.ones((8, 4)))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("batch", "act_embd"), "did you mean 'act_embed'"),
        (("batch", "embed"), "unknown logical name 'embed'"),
        (("batch",), "2 dimensions, but 1 names"),
    ],
)
def test_constrain_refuses_wrong_names_even_without_a_mesh(names, says):
    with pytest.raises(InputError, match=says):
        constrain(jnp.ones((8, 4)), names)


def test_constrain_refuses_a_mesh_without_rules_and_a_batch_that_does_not_divide():
    mesh = make_mesh()
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        pytest.raises(InputError, match="scope"),
    ):
        constrain(jnp.ones(8), ("batch",))
    with scope(mesh, "dp"), pytest.raises(InputError, match=r"\('batch'\) of size 6 .* 8 parts"):
        constrain(jnp.ones(6), ("batch",))
