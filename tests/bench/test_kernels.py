"""What is timed beside a kernel computes the same."""

from dataclasses import asdict

import jax
import numpy as np
import pytest

from jaxdl.bench import installed, kernels, kernels_gpu
from jaxdl.bench.kernels import WORKLOADS, Attention, LayerNorm, LinearCrossEntropy
from jaxdl.bench.peers.kernels import FUNCTIONS, run
from jaxdl.bench.turns import Outcome, Turn

SMALL = {
    "attention": Attention(512, gradient=True, batch=1, heads=2, size=16),
    "layer_norm": LayerNorm(64, 24, gradient=True),
    "linear_cross_entropy": LinearCrossEntropy(512, 16, vocab=100),
}


def found(op, peer):
    """Value, and gradients of what is a float."""
    work = SMALL[op]
    arrays = work.arrays()
    places = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]

    def value(*arrays):
        y = FUNCTIONS[op, peer](work, *arrays)
        return (y * jax.numpy.cos(y)).sum(), y

    gradients, y = jax.jit(jax.grad(value, places, has_aux=True))(*arrays)
    return y, *gradients


@pytest.mark.parametrize(("op", "peer"), [key for key in FUNCTIONS if key[1] != "naive"])
def test_a_peer_computes_what_the_plain_form_does(op, peer):
    for mine, plain in zip(found(op, peer), found(op, "naive"), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=2e-4, atol=2e-4 * np.abs(plain).max())


@pytest.mark.parametrize("op", SMALL)
def test_torch_computes_it_too(op):
    torch = pytest.importorskip("torch")
    peers = pytest.importorskip("jaxdl.bench.peers.torch_kernels")
    work = SMALL[op]
    arrays = [torch.from_numpy(x) for x in work.arrays()]
    if op == "attention":
        arrays = [x.transpose(1, 2) for x in arrays]
    y = peers.FUNCTIONS[op](work, *(x if x.is_floating_point() else x.long() for x in arrays))
    y = y.transpose(1, 2) if op == "attention" else y
    np.testing.assert_allclose(y, found(op, "naive")[0], rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("op", SMALL)
def test_a_peer_runs_and_tells_its_memory(op):
    go, info = run("jaxdl", op, **asdict(SMALL[op]))
    go(2)
    assert info["device"] == "cpu" and info["temp_mb"] > 0


def test_workloads_survive_their_description():
    for work in WORKLOADS.values():
        assert kernels.of(work.op, **asdict(work)) == work


def test_the_floor_is_1_and_what_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    info = {"temp_mb": 8.0, "device": "cpu", "compile_s": 1.0}

    def turns(peers, **_):
        times = {"jaxdl": 0.5, "naive": 1.0}
        return {
            p.name: Outcome(p.name, info, [Turn(times.get(p.name, 2.0), 1.0, None, 9.0)])
            for p in peers
        }

    monkeypatch.setattr(kernels, "take_turns", turns)
    told = {r["peer"]: r for r in kernels.measure_kernel("x", SMALL["attention"], peers=True)}
    assert told["jaxdl"]["ratio"] == 0.5 and told["naive"]["ratio"] == 1
    assert "not installed" in told["torch"]["missing"]
    assert told["chunked"]["ms"] == 2000


def test_the_script_for_a_gpu_runs_on_what_there_is():
    told = list(kernels_gpu.records(kernels_gpu.TINY, 600))
    kinds = [record["kind"] for record in told]
    assert kinds[0] == "machine" and "ceilings" in kinds and "left out" not in kinds
    assert all(record["fine"] for record in told if record["kind"] == "parity")
    times = {record["op"]: record for record in told if record["kind"] == "times"}
    for op, record in times.items():
        assert {"jaxdl", "naive"} <= record["ms"].keys(), record["errors"]
        assert {name.split()[0] for name in record["errors"]} <= {"cudnn", "tokamax"}
        assert record["fraction"].keys() == record["ms"].keys() and record["pass"] != "forward"
        assert record["op"] == op and min(record["ms"].values()) > 0
    assert times.keys() == SMALL.keys()


def test_what_there_is_no_time_for_is_named():
    told = list(kernels_gpu.records(kernels_gpu.TINY, 0))
    assert [record["op"] for record in told if record["kind"] == "left out"] == list(SMALL)
