"""The workloads: the same networks for every peer, through the code that measures them."""

import importlib
import json
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.bench import installed, step, workloads
from jaxdl.bench.peers import linen, ours
from jaxdl.bench.turns import Outcome, Turn
from jaxdl.bench.workloads import WORKLOADS
from jaxdl.core import dump, load, tree
from jaxdl.train.functions import functions

SMALL = {
    "resnet18": replace(WORKLOADS["resnet18"], stages=(1, 1), width=4, size=8, batch=8),
    "resnet50": replace(WORKLOADS["resnet50"], stages=(1, 1), width=4, size=32, batch=8, classes=9),
    "vit": replace(WORKLOADS["vit"], size=16, width=12, depth=2, batch=8),
    "gpt": replace(WORKLOADS["gpt"], vocab=64, width=24, heads=2, depth=1, seq=16, batch=2),
    "lstm": replace(WORKLOADS["lstm"], vocab=16, width=8, seq=8, batch=8),
}
PARAMS = {
    "resnet18": 11_173_962,
    "resnet50": 25_557_032,
    "vit": 5_407_780,
    "gpt": 13_891_584,
    "lstm": 1_116_288,
}
SECOND_BIAS = {"lstm": 2 * 4 * 256}
"""jaxdl's LSTM has two biases per layer, as PyTorch's; flax's has one."""
FLOPS = 3 * (2 * 32 * 24 * 12 * 24 + 4 * 2 * 16 * 16 * 24 + 2 * 32 * 24 * 64)
"""Of the small GPT, forward and twice that backward: projections, attention, logits."""


@pytest.mark.parametrize("name", WORKLOADS)
def test_both_networks_of_a_workload_have_its_parameters(name):
    work = WORKLOADS[name]
    exp = ours.experiment(work)
    assert load(dump(exp)) == exp
    x, y = work.arrays()
    batch = {"image": x} if work.unit == "examples" else {"tokens": np.zeros((1, 9), np.int32)}
    mine = jax.eval_shape(functions(exp, batch, on_cpu=True).init)[0]
    floor = jax.eval_shape(linen.MODELS[work.family](work).init, jax.random.key(0), x)
    sizes = tree.size(nn.meta.unbox(mine)), tree.size(floor["params"])
    assert sizes == (PARAMS[name] + SECOND_BIAS.get(name, 0), PARAMS[name])
    assert len(y) == work.batch


@pytest.mark.parametrize("name", SMALL)
def test_a_workload_survives_json(name):
    work = SMALL[name]
    assert workloads.of(work.family, **json.loads(json.dumps(asdict(work)))) == work


def test_jaxdl_is_measured_beside_the_floor_and_what_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    records = list(step.measure_step("gpt", SMALL["gpt"], peers=True, rounds=2, seconds=0.01))
    found = {record["peer"]: record for record in records}
    assert list(found) == ["jaxdl", "linen", "keras", "torch"]
    assert found["linen"]["ratio"] == found["linen"]["cpu_ratio"] == 1
    assert found["jaxdl"]["params"] == found["linen"]["params"] and "note" not in found["jaxdl"]
    for record in records[:2]:
        assert record["flops"] == FLOPS and 0 < record["loss"] < 10 and record["rounds"] == 2
        assert record["units_per_s"] == pytest.approx(32e3 / record["step_ms"])
        rate = FLOPS / record["step_ms"] / 1e6
        assert record["gflops_per_s"] == pytest.approx(rate) and record["ratio"] > 0
    for name in ("keras", "torch"):
        assert found[name]["missing"] == f"{name} is not installed; pip install 'jaxdl[parity]'"


def test_a_model_of_another_size_or_elsewhere_is_noted():
    floor, larger = _outcome("linen", 100), _outcome("torch", 104)
    elsewhere = _outcome("torch", 96, "gpu")
    assert step._compared(larger, floor)["note"] == "4 parameters more than linen"
    told = "4 parameters fewer than linen; on gpu, linen on cpu"
    assert step._compared(elsewhere, floor)["note"] == told
    assert "note" not in step._compared(floor, floor)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("peer", ["keras", "torch"])
def test_the_other_frameworks_train_the_same_network(peer, name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    framework = pytest.importorskip(peer)
    built = importlib.import_module(f"jaxdl.bench.peers.{peer}")
    if peer == "torch":
        framework.set_num_threads(1)  # two wait for one another while other tests have the cores
    work = SMALL[name]
    shape = {"family": work.family, **asdict(work)}
    with jax.numpy_rank_promotion("allow"):  # Keras relies on it
        (run, info), (_, floor) = built.step(**shape), linen.step(**shape)
        more = 2 * 4 * work.width if (peer, name) == ("torch", "lstm") else 0
        assert info["params"] == floor["params"] + more
        first = run(1)
        assert run(60) < first < 10


def _outcome(name, params, device="cpu"):
    info = {"params": params, "flops": 1, "compile_s": 0.0, "device": device}
    return Outcome(name, info, [Turn(1.0, 1.0, 0.0, 0.0)])
