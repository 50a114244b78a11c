import os

import jax
import pytest

from jaxdl.core import InputError, topology
from jaxdl.core.topology import devices


def test_fake_devices_are_those_that_are_here():
    assert devices("cpu:4") == jax.devices()[:4]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("v5e", "no hardware is called 'v5e'; write e.g. 'v5e:4x4'"),
        ("v5x:4x4", "no hardware is called 'v5x'; did you mean 'v5"),
        ("2x h200:8", "only TPUs come in slices"),
        ("0x v5e:2x2", "at least one"),
        ("cpu:9", "this process plays 8 CPU devices; set XLA_FLAGS"),
    ],
)
def test_what_is_unknown_gets_what_would_work(target, says):
    with pytest.raises(InputError, match=says):
        devices(target)


@pytest.mark.parametrize(("target", "extra"), [("v5e:2x2", "aot"), ("h200:8", "aot-gpu")])
def test_a_missing_compiler_is_named_by_its_extra(target, extra, monkeypatch):
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"pip install 'jaxdl\[{extra}\]'"):
        devices(target)


@pytest.mark.tpu_aot
@pytest.mark.parametrize(
    ("target", "kind", "count", "slices"),
    [
        ("v5e:4x4", "TPU v5 lite", 16, 1),
        ("v5p:2x2x1", "TPU v5", 4, 1),
        ("v6e:2x2", "TPU v6 lite", 4, 1),
        ("2x v5e:2x2", "TPU v5 lite", 8, 2),
    ],
)
def test_absent_tpus_have_their_kind_and_number(target, kind, count, slices):
    before = dict(os.environ)
    found = devices(target)
    assert dict(os.environ) == before
    assert {device.device_kind for device in found} == {kind}
    assert len(found) == count
    assert len({getattr(device, "slice_index", 0) for device in found}) == slices
    assert jax.default_backend() == "cpu"


@pytest.mark.tpu_aot
def test_a_topology_that_does_not_exist_is_bad_input():
    with pytest.raises(InputError, match="v5e:3x3 cannot be compiled for"):
        devices("v5e:3x3")


@pytest.mark.gpu_aot
def test_absent_gpus_have_their_kind_and_number():
    found = devices("h200:8")
    assert [device.device_kind for device in found] == ["NVIDIA H200"] * 8
