"""The program of an experiment: equal on one device and on eight, refused where it cannot run."""

import math
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from jaxdl import data
from jaxdl.core.change import change
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.models.gpt import GPT
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet
from jaxdl.optim import SGD, AdamW, Constant
from jaxdl.train import build, evaluate

small = load_file(__file__.replace("test_build", "small"))
ONE = jax.devices()[:1]
MODELS = {"mlp": MLP(widths=(16,), classes=10), "resnet": ResNet(stages=(1,), width=8)}


@pytest.fixture(scope="module")
def exp():
    # Adam's first steps are signs of gradients: rounding would move them by a whole rate.
    return replace(small.base(), ema=0.9, optim=SGD(peak_lr=0.1, schedule=Constant()))


def trained(program, steps=5):
    exp, state, losses = program.experiment, program.init(), []
    get = data.batches(
        exp.data.train(),
        batch=exp.data.batch,
        seed=exp.seed,
        transform=exp.data.transform("train"),
        mesh=program.mesh,
    )
    for n in range(steps):
        state, metrics = program.step(state, get(n))
        losses.append(float(metrics["loss"].compute()))
    return state, losses


@pytest.mark.row("C-019")
@pytest.mark.parametrize("model", MODELS)
def test_eight_devices_learn_what_one_learns(model, exp):
    exp = replace(exp, model=MODELS[model])
    (one, first), (eight, second) = (trained(build(exp, d)) for d in (ONE, jax.devices()))
    np.testing.assert_allclose(first, second, rtol=1e-5)
    for name in ("params", "model", "ema"):  # `model`: the statistics of the whole batch
        pairs = zip(
            jax.tree.leaves(getattr(one, name)), jax.tree.leaves(getattr(eight, name)), strict=True
        )
        for a, b in pairs:
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)
    if model == "resnet":
        assert jax.tree.leaves(one.model["batch_stats"])
    assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(eight.params))


@pytest.mark.row("C-019")
def test_the_step_reduces_all_gradients_together(exp):
    program = build(replace(exp, model=MODELS["mlp"]), jax.devices())
    text = program.step.lower(program.abstract, program.batch).compile().as_text()
    reduced = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    sizes = [
        sorted(math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", out))
        for out in reduced
    ]
    assert [s for s in sizes if s] == [[10, 16, 160, 1024]], "one reduction holds all gradients"
    assert "all-gather" not in text
    assert program.batch["image"].sharding.shard_shape((64, 8, 8, 1)) == (8, 8, 8, 1)


@pytest.mark.parametrize("count", [1, 8])
def test_metrics_of_a_ragged_split_are_those_of_scikit_learn(count, exp):
    exp = change(replace(exp, model=MODELS["mlp"]), {"data.eval_batch": 64, "ema": 0.0})
    program = build(exp, jax.devices()[:count])
    state, _ = trained(program)
    for split, size in (("valid", 240), ("test", 360)):
        source = getattr(exp.data, split)()
        assert len(source) == size and size % 64
        image = source.arrays["image"].reshape(size, -1).astype(np.float64) / 16
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)
        hidden = np.maximum(image @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"], 0)
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
        found, label = evaluate(program, state, split), source.arrays["label"]
        assert found["accuracy"] == accuracy_score(label, logits.argmax(-1))
        probability = np.exp(logits - logits.max(-1, keepdims=True))
        probability /= probability.sum(-1, keepdims=True)
        assert found["loss"] == pytest.approx(log_loss(label, probability), rel=1e-5)


def test_evaluation_uses_the_averaged_parameters_where_there_are_any(exp):
    program = build(replace(exp, model=MODELS["mlp"]), ONE)
    state, _ = trained(program)
    averaged = evaluate(program, state, "valid")
    assert averaged != evaluate(program, state.replace(ema=state.params), "valid")
    plain = build(replace(exp, model=MODELS["mlp"], ema=0.0), ONE)
    same = evaluate(plain, state.replace(params=state.ema, ema=None), "valid")
    assert averaged == same


TOKENS = GPT(vocab=256, width=8, depth=1, heads=1, seq=8)
REFUSED = {
    "batch": ({"data.batch": 60}, None, r"data.batch=60 .* 8 devices; try 56 or 64"),
    "micro-batches": (
        {"data.batch": 64, "accumulate": 3},
        None,
        r"8 devices x 3 micro-batches; try 48 or 72",
    ),
    "evaluation batch": ({"data.eval_batch": 4}, None, r"data.eval_batch=4 .*try 8"),
    "a language model on images": ({"model": TOKENS}, ONE, "do not fit"),
    "too few classes": ({"model": MLP((4,), 9)}, ONE, r"model.classes=10"),
    "no such optimizer": ({"optim": small.gan().optim}, ONE, "optim is Adversaries"),
    "one optimizer for two": (
        {"task": small.gan().task, "model": small.gan().model},
        ONE,
        "'optim.critic', which the experiment lacks",
    ),
    "warmup": ({"optim": AdamW(), "optim.schedule.warmup": 99}, ONE, "less than the 60 updates"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(case, exp):
    edits, devices, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        build(change(exp, edits), devices)


def test_another_batch_than_the_traced_one_is_refused_with_its_shapes(exp):
    program = build(replace(exp, model=MODELS["mlp"]), ONE)
    state = program.init()
    batch = {"image": np.zeros((32, 8, 8, 1), np.float32), "label": np.zeros(32, np.int32)}
    with pytest.raises(InputError, match=r"\[32, ?8, ?8, ?1\]"):
        program.step(state, batch)


def test_a_cpu_has_no_other_memory_for_the_optimizer(exp, caplog):
    with caplog.at_level("INFO", logger="jaxdl"):
        program = build(replace(exp, optimizer_memory="host"), ONE)
    assert "changes nothing on CPU" in caplog.text
    assert program.abstract.opt == build(exp, ONE).abstract.opt
