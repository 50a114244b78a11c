import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.parallel import make_mesh


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ({}, {"data": 8}),
        ({"data": -1}, {"data": 8}),
        ({"data": 2, "model": -1}, {"data": 2, "model": 4}),
        ({"data": 2, "model": 2, "pipe": 2}, {"data": 2, "model": 2, "pipe": 2}),
        ({"data": 8, "model": 1}, {"data": 8, "model": 1}),
    ],
)
def test_sizes_fill_the_devices(axes, shape):
    mesh = make_mesh(**axes)
    assert dict(mesh.shape) == shape
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_given_devices_are_all_of_them():
    assert make_mesh(jax.devices()[:2]).size == 2


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"data": 3}, "data=3 takes 3 devices, but there are 8; the nearest .* is data=8"),
        ({"data": 16}, "takes 16 devices, but there are 8"),
        ({"data": 2, "model": 3}, "takes 6 devices, but there are 8; .* is data=2, model=4"),
        ({"data": -1, "model": 3}, "a multiple of 3 devices, but there are 8; .* data=2, model=4"),
        ({"data": -1, "model": -1}, "only one of them may be -1"),
        ({"data": 0}, "at least 1"),
    ],
)
def test_a_wrong_product_names_both_numbers_and_a_mesh_that_works(axes, says):
    with pytest.raises(InputError, match=says):
        make_mesh(**axes)


def test_an_axis_of_size_one_costs_no_collective():
    def compiled(mesh):
        split = NamedSharding(mesh, PartitionSpec("model"))
        whole = NamedSharding(mesh, PartitionSpec())
        step = jax.jit(jnp.sum, in_shardings=split, out_shardings=whole)
        return step.lower(jnp.ones(8)).compile().as_text()

    assert "all-reduce" not in compiled(make_mesh(data=8, model=1))
    assert "all-reduce" in compiled(make_mesh(data=1, model=8))
