import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.parallel import make_mesh
from jaxdl.parallel.mesh import AXES


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
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1) | shape
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_the_outermost_axis_that_can_crosses_slices():
    mesh = make_mesh(data=2, model=4, slices=2)
    first, second = mesh.devices[0].ravel(), mesh.devices[1].ravel()
    assert {d.id for d in first} == {0, 1, 2, 3}
    assert {d.id for d in second} == {4, 5, 6, 7}
    stages = make_mesh(data=1, pipe=2, fsdp=4, slices=2).devices[0, :, :, 0, 0, 0]
    assert [{d.id for d in stage} for stage in stages] == [{0, 1, 2, 3}, {4, 5, 6, 7}]


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
        ({"modle": 8}, "no mesh axis 'modle'; did you mean 'model'"),
        ({"slices": 3}, "slices=3 does not divide 8 devices"),
        ({"model": 2, "seq": 4, "slices": 8}, "no axis of the mesh seq=4, model=2 can cross 8"),
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
