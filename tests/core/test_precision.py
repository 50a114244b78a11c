import jax
import jax.numpy as jnp
import pytest

from jaxdl.core.errors import InputError
from jaxdl.core.precision import cast, like, policy

TREE = {
    "kernel": jnp.ones((2, 2)),
    "base": jnp.ones(3, jnp.int8),
    "kept": jnp.ones(3, bool),
    "key": jax.random.key(0),
}


def dtypes(t):
    return {name: str(x.dtype) for name, x in t.items()}


def test_only_floating_leaves_are_cast():
    found = dtypes(policy("bf16").cast(TREE))
    assert found == dtypes(TREE) | {"kernel": "bfloat16"}
    assert dtypes(policy("f32").cast(TREE)) == dtypes(TREE)


def test_inputs_follow_the_parameters():
    inputs = {"image": jnp.ones((2, 3)), "label": jnp.ones(2, jnp.int32)}
    assert dtypes(like(cast(TREE, jnp.bfloat16), inputs)) == {"image": "bfloat16", "label": "int32"}
    mixed = {"a": jnp.ones(1), "b": jnp.ones(1, jnp.bfloat16)}
    assert dtypes(like(mixed, inputs)) == dtypes(inputs)


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(InputError, match="'bf61' is unknown; did you mean 'bf16'"):
        policy("bf61")
