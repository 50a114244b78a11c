"""What an experiment asks for in vain is refused before anything is written."""

import signal
from dataclasses import dataclass, replace

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxdl import data
from jaxdl.core.change import change
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.data import ArraySource, Digits
from jaxdl.train import EarlyStop, Evaluate, Histograms, Log, ReduceOnPlateau, Save, build, fit

small = load_file(__file__.replace("test_check", "small"))
ONE = jax.devices()[:1]


@dataclass(frozen=True)
class Bare:
    """An optimizer without our rate."""

    def build(self, steps, params):
        return optax.sgd(0.1)


@dataclass(frozen=True)
class Empty(Digits):
    """Digits with nothing to validate on."""

    def valid(self):
        return ArraySource({k: v[:0] for k, v in super().valid().arrays.items()})


@dataclass(frozen=True)
class Unlike(Digits):
    """Digits whose test images are larger."""

    def test(self):
        arrays, border = super().test().arrays, ((0, 0), (1, 1), (1, 1), (0, 0))
        return ArraySource(arrays | {"image": np.pad(arrays["image"], border)})


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"task.mode": "maximum"}, "task.mode='maximum' must be 'max' or 'min'"),
        ({"task.primary": "valid/acc"}, "the task watches 'valid/acc'.*'valid/accuracy'"),
        ({"task.primary": "vaild/accuracy"}, "'vaild/accuracy'.*'valid/accuracy'"),
        ({"hooks": (1,)}, "hooks.0=1 lacks open"),
        ({"data": 3}, "data=3 lacks train, valid"),
        ({"hooks": (Save(every=1), Log())}, "as the last of the hooks"),
        ({"hooks": (Evaluate(every=1, split="train"),)}, "no held-out split 'train'"),
        ({"hooks": (EarlyStop(), Evaluate(every=1))}, "no hook before it writes"),
        ({"hooks": (Histograms(every=1, params="*kernle"),)}, "matches '\\*kernle'"),
        ({"optim": Bare(), "hooks": (Evaluate(every=1), ReduceOnPlateau())}, "no rate to turn"),
        ({"data": Empty(batch=8)}, "the valid split of Empty is empty"),
        ({"data": Unlike(batch=8)}, "batches of test .* are unlike those of valid"),
    ],
    ids=str,
)
def test_an_experiment_that_cannot_mean_it_is_refused(edits, words, tmp_path):
    exp = replace(small.base(), **edits) if not any("." in e for e in edits) else None
    exp = exp or change(small.base(), edits)
    with pytest.raises(InputError, match=words):
        fit(exp, tmp_path / "run", devices=ONE)
    assert not (tmp_path / "run").exists()


def test_a_mesh_axis_that_divides_nothing_is_refused():
    exp = replace(small.base(), mesh={"data": 2, "seq": 4})
    with pytest.raises(InputError, match="divided over mesh axis 'seq', so its 4 devices"):
        build(exp)


def test_a_rule_dict_changes_the_default_and_does_not_switch_it_off():
    program = build(replace(small.base(), rules={"mlp": "data"}))
    assert program.batch["image"].sharding.spec[0] == ("data", "fsdp", "expert")
    assert program.abstract.params["hidden"]["kernel"].sharding.spec == PartitionSpec(
        "fsdp", "data"
    )


@dataclass(frozen=True)
class Ten(Digits):
    """Digits validated on ten chosen examples first."""

    def plan(self, split):
        return (lambda seed, e: 239 - e) if split == "valid" else None


def test_evaluation_follows_its_plan_and_never_augments(monkeypatch):
    from jaxdl.train import evaluation_batches

    exp = replace(small.base(), data=Ten(batch=8, eval_batch=8, train_transform=(small.Crop(1),)))
    program = build(exp, ONE)
    get, _ = evaluation_batches(program, "valid")
    source = exp.data.valid()
    assert np.array_equal(get(0)["label"], [source[239 - i]["label"] for i in range(8)])
    get, _ = evaluation_batches(program, "train")
    want = data.Scale(0, 16)({"image": exp.data.train().arrays["image"][:8]}, None)["image"]
    assert np.array_equal(get(0)["image"], want)
    state = program.init()
    for index in (0, np.int32(0), jax.numpy.int32(0)):
        program.evaluate(state, get(0), index)


@dataclass(frozen=True)
class Shifted(Digits):
    """Labels one too high, as a source without `sizes` may hold them."""

    def train(self):
        arrays = super().train().arrays
        return ArraySource(arrays | {"label": arrays["label"] + 1})


def test_labels_out_of_range_cannot_end_well(tmp_path, caplog):
    exp = replace(small.base(), data=Shifted(batch=64), steps=12, hooks=(Log(every=4, give_up=8),))
    fitted = fit(exp, tmp_path, devices=ONE)
    assert (fitted.code, fitted.result.status) == (1, "failed")
    assert "labels out of range" in caplog.text


@dataclass(frozen=True)
class Misnamed(Digits):
    """Images under another name."""

    def train(self):
        arrays = super().train().arrays
        return ArraySource({"pixels": arrays["image"], "label": arrays["label"]})

    def transform(self, split):
        return None


def test_a_missing_leaf_is_named(tmp_path):
    with pytest.raises(
        InputError, match="the task asks for the leaf 'image', which the batch lacks"
    ):
        build(replace(small.base(), data=Misnamed(batch=8)), ONE)


def test_fewer_steps_than_were_made_are_refused(tmp_path):
    exp = replace(small.base(), steps=20, hooks=(Save(every=10),))
    stop = small.At(15, small.send(signal.SIGTERM))
    assert fit(exp, tmp_path, watch=small.watch(stop), devices=ONE).code == 75
    with pytest.raises(InputError, match="at step 15 already, beyond steps=12"):
        fit(replace(exp, steps=12), tmp_path, devices=ONE)
