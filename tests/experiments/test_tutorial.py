"""The tutorial: its blocks run as they stand, on real MNIST, and each step gives what it says."""

import re
from pathlib import Path

import pytest

from jaxdl.core.records import read_records
from jaxdl.train import evaluation_batches

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "experiments" / "vision" / "tutorial.md"


@pytest.fixture(scope="module")
def steps(tmp_path_factory, fetched):
    """What the page's names stand for after each of its five steps, and where it ran."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXDL_DATA", str(fetched("mnist")))
        patch.chdir(tmp_path_factory.mktemp("tutorial"))
        names, seen = {}, []
        for section in re.split(r"^## \d\. ", PAGE.read_text(), flags=re.M)[1:]:
            for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S):
                exec(block, names)
            seen.append(dict(names))
        yield seen, Path.cwd()


@pytest.mark.row("A-032")
def test_each_of_the_five_steps_gives_what_the_next_one_needs(steps):
    define, compiled, train, evaluate, improve = steps[0]
    assert define["model"].widths == (256, 128, 64)
    assert compiled["program"].batch["image"].shape == (128, 28, 28, 1)
    assert train["fitted"].result.steps == 860
    assert evaluate["accuracy"] == train["fitted"].result.metrics["test"]["accuracy"]
    assert improve["better"].optim.schedule != compiled["experiment"].optim.schedule
    assert improve["improved"].result.metrics["test"]["accuracy"] > evaluate["accuracy"]
    records = read_records(steps[1] / "runs/tutorial-better")
    rates = [record.values["lr"] for record in records if record.split == "train"]
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)


@pytest.mark.row("A-035")
def test_two_epochs_of_mnist_reach_95_percent_with_time_and_curves_kept(steps):
    (_, _, _, evaluated, _), folder = steps
    result = evaluated["fitted"].result
    assert evaluated["experiment"].steps * 128 <= 2 * 55_040
    assert result.metrics["test"]["accuracy"] >= 0.95
    assert result.seconds > 0
    assert (folder / "runs/tutorial/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.row("A-036")
class TestTheFiveCriteria:
    def test_it_trains(self, steps):
        records = read_records(steps[1] / "runs/tutorial")
        losses = [r.values["loss"] for r in records if r.split == "train"]
        assert losses[-1] < losses[0] / 3

    def test_data_model_training_and_evaluation_are_components_of_their_own(self, steps):
        experiment = steps[0][-1]["experiment"]
        parts = (experiment.data, experiment.model, experiment.optim, experiment.task)
        modules = [type(part).__module__.split(".")[1] for part in parts]
        assert modules == ["data", "models", "optim", "tasks"]

    def test_it_is_above_85_percent(self, steps):
        assert steps[0][3]["accuracy"] > 0.85

    def test_it_is_documented(self):
        page = PAGE.read_text()
        titles = re.findall(r"^## \d\. (.*)", page, re.M)
        assert len(titles) == 5
        for section in re.split(r"^## ", page, flags=re.M)[1:]:
            prose = re.sub(r"^```.*?^```", "", section, flags=re.M | re.S)
            assert len(prose.split()) >= 15, f"{section.splitlines()[0]}: code without a word"
        for link in re.findall(r"\]\(([^)]+)\)", page):
            assert (PAGE.parent / link).exists(), link

    def test_the_framework_is_used_as_it_should_be(self, steps):
        """Nothing was chosen by the test split, and the model gives logits."""
        experiment = steps[0][-1]["better"]
        watched = [hook.split for hook in experiment.hooks if hasattr(hook, "split")]
        assert "test" not in watched and experiment.task.primary.startswith("valid/")
        fitted = steps[0][-1]["fitted"]
        batch = evaluation_batches(fitted.program, "test")[0](0)
        logits = experiment.model.apply({"params": fitted.state.params}, batch["image"])
        assert float(abs(logits.sum(-1) - 1).max()) > 1, "probabilities instead of logits"
