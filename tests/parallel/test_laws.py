"""One model file, any mesh, the same numbers."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.nn import Rotary
from jaxdl.train import build

laws = load_file(__file__.replace("test_laws", "laws"))
PAIRS = [
    ("resnet", {"data": 4, "fsdp": 2}),
    ("gpt", {"data": 2, "fsdp": 2, "model": 2}),
    ("gpt", {"data": 2, "seq": 2, "model": 2}),
    ("gpt", {"pipe": 2, "fsdp": 2, "model": 2}),
    ("moe", {"data": 2, "expert": 4}),
]
EVERY = [(name, mesh) for name in laws.EXPERIMENTS for mesh in laws.MESHES]


def told(value):
    return laws.told(value) if isinstance(value, dict) else value


def impossible(name, mesh):
    """Why these cannot be, as far as it is known in advance: a word of the message."""
    if name == "resnet" and (found := [a for a in ("pipe", "seq", "model") if a in mesh]):
        return f"mesh axis '{found[0]}'" if "pipe" not in found else "pipe"
    if mesh.get("pipe", 1) > 1 and name == "moe":
        return "pipe"
    if mesh.get("pipe", 1) == 8:
        return "'layers'"
    if name == "vit" and "seq" in mesh:
        return "of size 17"
    if mesh.get("model", 1) == 8:
        return "does not divide into 8 parts"
    if name == "moe" and mesh.get("expert", 1) == 8:
        return "of size 4 does not divide into 8"
    return ""


@cache
def alone(name, steps=1, **changes):
    return laws.updated(replace(laws.EXPERIMENTS[name], **changes), steps, laws.ONE)


def check_update(name, mesh):
    exp = replace(laws.EXPERIMENTS[name], mesh=mesh)
    if reason := impossible(name, mesh):
        with pytest.raises(InputError, match=reason):
            build(exp)
        return
    check_same(laws.updated(exp, 1), alone(name))


def check_same(found, expected):
    (params, *numbers), (expected_params, *expected_numbers) = found, expected
    for mine, theirs in zip(numbers, expected_numbers, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (params, expected_params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_loss_without_logits_is_that_of_one_device_with_them():
    exp = laws.EXPERIMENTS["gpt"]
    mesh = {"data": 2, "fsdp": 2, "model": 2}
    exp = replace(exp, task=replace(exp.task, fused=True), mesh=mesh)
    check_same(laws.updated(exp, 1), alone("gpt"))


def test_a_program_tells_by_what_its_kernels_run():
    exp = laws.EXPERIMENTS["gpt"]
    program = build(replace(exp, task=replace(exp.task, fused=True)), laws.ONE)
    took = {kernel.kernel: kernel.took for kernel in program.kernels}
    assert took["linear_cross_entropy"] == "chunked"
    assert took["flash_attention backward"] == "cpu" and took["layer_norm"] == "reference"
    assert not any("linear" in kernel.kernel for kernel in build(exp, laws.ONE).kernels)


@pytest.mark.parametrize(("name", "mesh"), PAIRS, ids=told)
def test_an_update_is_that_of_one_device(name, mesh):
    check_update(name, mesh)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"data": 2, "seq": 2, "model": 2}, {"pipe": 2, "fsdp": 4}], ids=told
)
def test_turned_queries_and_keys_are_those_of_one_device(mesh):
    turning = replace(laws.GPT_2, positions=None, rotary=Rotary())
    exp = replace(laws.EXPERIMENTS["gpt"], model=turning)
    check_same(laws.updated(replace(exp, mesh=mesh), 1), laws.updated(exp, 1, laws.ONE))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), EVERY, ids=told)
def test_an_update_on_every_mesh_of_eight_is_that_of_one_device_or_refused(name, mesh):
    check_update(name, mesh)


@pytest.mark.slow
@pytest.mark.row("C-024")
def test_an_update_of_fsdp_is_that_of_data_parallelism():
    exp = laws.EXPERIMENTS["gpt"]
    found, expected = (laws.updated(replace(exp, mesh={axis: 8}), 1) for axis in ("fsdp", "data"))
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (found[0], expected[0])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


STRATEGIES = {
    "dp": ("dp", {"data": 8}),
    "zero1": ("dp+zero1", {"data": 8}),
    "fsdp": ("fsdp", {"fsdp": 8}),
    "tp": ("dp+tp", {"data": 2, "model": 4}),
    "sp": ("dp+tp+sp", {"data": 2, "model": 4}),
    "ring": ("dp+cp", {"data": 2, "seq": 4}),
    "ulysses": ("dp+ulysses", {"data": 2, "seq": 4}),
    "pp": ("dp+pp", {"data": 2, "pipe": 4}),
    "slices": ("auto", {"slices": 2, "data": 2, "fsdp": 2, "model": 2}),
    "all": ("auto+sp", {"pipe": 2, "fsdp": 2, "model": 2}),
}
HARD = {"accumulate": 4, "optim": replace(laws.EXPERIMENTS["gpt"].optim, clip=0.5)}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_twenty_updates_of_the_gpt_are_those_of_one_device(strategy):
    rules, mesh = STRATEGIES[strategy]
    exp = replace(laws.EXPERIMENTS["gpt"], rules=rules, mesh=mesh, **HARD)
    (_, losses, metrics), expected = laws.updated(exp, 20), alone("gpt", 20, **HARD)
    assert expected[1][-1] < 0.8 * expected[1][0]
    assert losses == pytest.approx(expected[1], rel=1e-4)
    assert metrics == pytest.approx(expected[2], rel=1e-4)


@pytest.mark.parametrize(
    ("rules", "mesh"),
    [("auto", {"fsdp": 2, "model": 4}), ("auto+sp", {"data": 2, "seq": 2, "model": 2})],
)
def test_initialisation_has_the_same_bits_under_every_sharding(rules, mesh):
    exp = laws.EXPERIMENTS["gpt"]
    here = jax.device_get(build(replace(exp, rules=rules, mesh=mesh)).init())
    there = jax.device_get(build(exp, laws.ONE).init())
    jax.tree.map(np.testing.assert_array_equal, here, there)
