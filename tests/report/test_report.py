"""Pictures of a run: curves hold the records' points, captions the model's own probabilities."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxdl import report
from jaxdl.core import Experiment
from jaxdl.core.records import read_records
from jaxdl.data import Digits
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW, Constant
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, build, evaluation_batches, fit

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    exp = Experiment(
        model=MLP(widths=(16,), classes=10),
        task=Classification(),
        data=Digits(batch=64, eval_batch=50),
        optim=AdamW(peak_lr=1e-2, schedule=Constant()),
        steps=40,
        hooks=(Log(every=4), Evaluate(every=20)),
    )
    place = tmp_path_factory.mktemp("report")
    return place, fit(exp, place, devices=ONE)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    kept, real = [], Figure.savefig

    def savefig(figure, *args, **kwargs):
        kept.append(figure)
        return real(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return kept


def decoded(path):
    with Image.open(path) as image:
        image.load()
        return np.asarray(image.convert("RGB"))


@pytest.mark.row("I-016")
def test_the_points_of_the_curves_are_those_of_the_records(run, figures):
    place, _ = run
    expected = {}
    for record in map(json.loads, (place / "metrics.jsonl").read_text().splitlines()):
        for name, value in record["values"].items() if record["split"] != "perf" else ():
            points = expected.setdefault(name, {}).setdefault(record["split"], [])
            points.append((record["step"], value))
    assert report.series(read_records(place)) == expected
    assert len(expected["loss"]["train"]) == 10 and len(expected["loss"]["valid"]) == 2
    assert next(iter(report.series(read_records(place)))) == "loss"

    path = report.draw_curves(place)
    (figure,) = figures
    drawn = {
        axes.get_title(): {
            line.get_label(): list(zip(*map(list, line.get_data()), strict=True))
            for line in axes.get_lines()
        }
        for axes in figure.axes
    }
    assert drawn == {name: splits for name, splits in expected.items() if name != "skipped"}
    height, width, _ = decoded(path).shape
    assert 300 < height < 3000 and 600 < width < 3000
    assert decoded(path).std() > 5, "there is something on it"


def test_nothing_recorded_makes_no_picture(tmp_path):
    assert report.draw_curves(tmp_path) is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [[None, None], [1.0, None], [0.5, 0.5], [1e300, -1e300], [3.0]])
def test_curves_of_odd_values_are_drawn_without_a_warning(values, tmp_path):
    lines = (
        json.dumps({"step": i, "split": "train", "time": 0.0, "values": {"loss": v}})
        for i, v in enumerate(values)
    )
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert decoded(report.draw_curves(tmp_path)).size


@pytest.fixture(scope="module")
def predicted(run):
    """The first and the ragged last batch of the test split, and what the model said of them."""
    _, fitted = run
    get, count = evaluation_batches(fitted.program, "test")
    pairs = ((get(n), fitted.program.predict(fitted.state, get(n), n)) for n in (0, count - 1))
    return [jax.device_get((dict(batch), outputs)) for batch, outputs in pairs]


@pytest.mark.row("I-017")
def test_captions_tell_the_probability_of_the_models_softmax(run, predicted):
    batch, outputs = predicted[0]
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), run[1].state.params)
    x = batch["image"].reshape(len(batch["image"]), -1).astype(np.float64)
    x = np.maximum(x @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"], 0)
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    told = report.captions(batch, outputs)
    assert len(told) == 50
    for text, row, label in zip(told, probability, batch["label"], strict=True):
        said, shown = text.split(",")[0].split()
        assert int(said) == row.argmax()
        assert float(shown.rstrip("%")) / 100 == pytest.approx(row.max(), abs=6e-4)
        assert ("is" in text) == (row.argmax() != label)
        assert text.endswith(f", is {label}") or row.argmax() == label
    assert any("is" in text for text in told) and not all("is" in text for text in told)


@pytest.mark.row("I-017")
def test_the_least_certain_images_are_shown_and_no_padding(predicted, tmp_path, figures):
    batch, outputs = predicted[1]
    assert 0 < batch["mask"].sum() < 50, "the batch is ragged"
    path = report.draw_samples(tmp_path, batch, outputs)
    (figure,) = figures
    told = report.captions(batch, outputs)
    sure = np.where(batch["mask"] > 0, outputs["probability"].max(-1), np.inf)
    order = np.argsort(sure, kind="stable")[: min(24, int(batch["mask"].sum()))]
    assert [axes.get_title() for axes in figure.axes] == [told[i] for i in order]
    for axes, i in zip(figure.axes, order, strict=True):
        shown = np.asarray(axes.get_images()[0].get_array())
        original = batch["image"][i, ..., 0]
        assert np.corrcoef(shown.ravel(), original.ravel())[0, 1] > 0.999
    height, width, _ = decoded(path).shape
    assert 300 < height < 2000 and 600 < width < 3000


def test_generated_images_and_text_are_pictured_and_other_things_are_not(tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (30, 8, 8, 1)).astype(np.float32)
    assert decoded(report.draw_samples(tmp_path, {"image": images}, {"image": images})).std() > 5
    tokens = np.arange(2 * 129).reshape(2, 129) % 256
    outputs = {
        "logits": np.zeros((2, 128, 256), np.float32),
        "token": tokens[:, 1:],
        "probability": np.full((2, 128), 0.5, np.float32),
    }
    assert decoded(report.draw_samples(tmp_path, {"tokens": tokens}, outputs)).std() > 5
    wide = outputs | {"logits": np.zeros((2, 128, 257), np.float32)}
    assert report.draw_samples(tmp_path, {"tokens": tokens}, wide) is None


CLASSES = {"label": np.array([1, 0]), "probability": np.array([[0.25, 0.75], [0.875, 0.125]])}
WORDS = {"tokens": np.zeros((2, 129), int)}


@pytest.mark.parametrize(
    ("batch", "outputs"),
    [
        ({"image": np.ones((2, 64))}, CLASSES),
        ({"image": np.ones((2, 8, 8, 2))}, CLASSES),
        ({"image": np.ones((2, 8, 8, 1))}, {"probability": CLASSES["probability"]}),
        ({"image": np.ones((2, 8, 8, 1))}, CLASSES | {"probability": np.ones(2)}),
        ({"image": np.ones((2, 8, 8, 1))}, {}),
        ({}, {"image": np.ones((2, 64))}),
        (WORDS, {}),
        (WORDS, {"token": WORDS["tokens"][:, 1:], "probability": np.ones((2, 128))}),
        ({"tokens": np.zeros(129, int)}, {"logits": np.ones((128, 9)), "token": np.zeros(128)}),
    ],
)
def test_what_lacks_a_part_is_not_pictured(batch, outputs, tmp_path):
    assert report.draw_samples(tmp_path, batch, outputs) is None and not list(tmp_path.iterdir())


def test_a_classifier_without_labels_shows_its_predictions(tmp_path, figures):
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))
    assert report.draw_samples(tmp_path, {"image": images}, CLASSES)
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["1 75.0%", "0 87.5%"]


def test_a_trained_run_of_an_ema_is_pictured_with_the_average(run):
    _, fitted = run
    exp = replace(fitted.program.experiment, ema=0.5)
    program = build(exp, ONE)
    state = fitted.state.replace(ema=jax.tree.map(lambda x: 0 * x, fitted.state.params))
    batch = evaluation_batches(program, "test")[0](0)
    probability = program.predict(state, batch, 0)["probability"]
    np.testing.assert_allclose(np.asarray(probability), 0.1, rtol=1e-6)
