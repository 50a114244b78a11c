"""Hooks act exactly where the closed form says, also after an interruption."""

import signal
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.change import change
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.core.records import read_records, read_result
from jaxdl.data import Scale
from jaxdl.optim import AdamW, Constant
from jaxdl.train import EarlyStop, Evaluate, Histograms, Log, ReduceOnPlateau, Save, fit
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.hooks.plateau import plateaus
from jaxdl.train.packed import Layout

small = load_file(__file__.replace("test_hooks", "small"))
pytestmark = pytest.mark.usefixtures("shared_programs")
ONE = jax.devices()[:1]
nan = float("nan")


@pytest.fixture(scope="module")
def exp():
    return replace(small.base(), ema=0.0, optim=AdamW(peak_lr=1e-2, schedule=Constant()))


def run(exp, place, *hooks, steps=12, watch=()):
    exp = replace(exp, steps=steps, hooks=(*hooks, Save(every=5)))
    return fit(exp, place, watch=small.watch(*watch), devices=ONE)


LOSSES = (1.0, 0.9, 0.95, 0.94, 0.96, 0.8, 0.7)


@pytest.mark.row("C-011")
@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "mode", "found"),
    [
        (LOSSES, 3, 0.0, "min", [4]),
        (LOSSES, 2, 0.0, "min", [3]),
        (LOSSES, 1, 0.0, "min", [2, 3, 4]),
        (LOSSES, 4, 0.0, "min", []),
        ([1, 2, 2, 3, 3, 3], 2, 0.0, "max", [5]),  # an improvement resets the count
        ([1, 1, 1, 1, 1], 2, 0.0, "max", [2, 4]),  # and so does the end of a plateau
        ([1.0, 0.95, 0.9, 0.85], 2, 0.1, "min", [2]),  # 0.85 beats 1.0 by more than 0.1
        ([1.0, 0.9], 1, 0.1, "min", [1]),  # better by min_delta is not better by more
        ([nan, 2.0, 1.0, nan, 1.5], 2, 0.0, "min", [4]),
        ([nan, nan, 1.0], 2, 0.0, "max", [1]),
        ([], 1, 0.0, "max", []),
    ],
)
def test_plateaus_end_where_the_definition_says(values, patience, min_delta, mode, found):
    assert plateaus(values, patience, min_delta, mode) == found


@pytest.mark.row("C-010", "C-011")
@pytest.mark.parametrize("cut", [None, 3, 4], ids=["whole", "cut at 3", "cut at 4"])
def test_early_stop_ends_at_the_third_failure_and_reports_the_best(cut, exp, tmp_path):
    script = small.Scripted("valid", "loss", LOSSES)
    hooks = (script, EarlyStop(patience=3, metric="valid/loss", mode="min"))
    exp = change(exp, {"task.primary": "valid/loss", "task.mode": "min"})
    if cut:
        stop = small.At(cut, small.send(15))
        assert run(exp, tmp_path, *hooks, watch=[stop]).code == 75
    fitted = run(exp, tmp_path, *hooks)
    assert (fitted.result.status, fitted.code, fitted.result.steps) == ("stopped", 0, 5)
    assert fitted.result.best == {"step": 2, "value": 0.9}
    again = run(exp, tmp_path, *hooks)
    assert again.result == read_result(tmp_path) and again.program is None
    # The parameters that were evaluated are, bit for bit, those of step 2.
    other = run(exp, tmp_path / "other", script, steps=2)
    assert small.leaves(fitted.state) == small.leaves(other.state)


def test_a_run_that_is_killed_after_it_had_stopped_trains_no_further(exp, tmp_path):
    hooks = (small.Scripted("valid", "loss", LOSSES), EarlyStop(3, metric="valid/loss", mode="min"))

    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(exp, tmp_path, *hooks, watch=[small.At(5, die)])
    fitted = run(exp, tmp_path, *hooks)
    assert (fitted.result.status, fitted.result.steps) == ("stopped", 5)


@pytest.mark.row("C-010")
@pytest.mark.parametrize("cut", [None, 3, 4, 6], ids=str)
def test_the_rate_falls_in_the_update_after_each_plateau(cut, exp, tmp_path):
    script = small.Scripted("valid", "accuracy", (1, 2, 2, 2, 1, 1, 1, 3, 1, 1))
    hooks = (Log(every=1), script, ReduceOnPlateau(factor=0.5, patience=2))
    if cut:
        assert run(exp, tmp_path, *hooks, watch=[small.At(cut, small.send(15))]).code == 75
    run(exp, tmp_path, *hooks)
    rates = [v["lr"] for _, split, v in small.told(tmp_path) if split == "train"]
    factors = [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125]
    np.testing.assert_allclose(rates, 1e-2 * np.array(factors), rtol=1e-6)


@pytest.mark.row("C-010")
def test_hooks_see_every_update_in_the_order_declared(exp, tmp_path):
    seen = []
    one, two = (small.At(None, lambda name=name: seen.append(name)) for name in "ab")
    run(exp, tmp_path, steps=3, watch=[one, two])
    assert seen == ["a", "b"] * 3 and one.now == two.now == 3


@pytest.mark.row("C-010")
def test_an_exception_in_a_hook_names_it_and_the_update(exp, tmp_path):
    def fail():
        raise ZeroDivisionError("in the hook")

    with pytest.raises(ZeroDivisionError, match="in the hook") as error:
        run(exp, tmp_path, Log(every=2), watch=[small.At(7, fail)])
    assert error.value.__notes__ == ["raised by the hook At after update 7"]
    found = read_result(tmp_path)
    assert (found.status, found.steps) == ("failed", 5)
    whole = run(exp, tmp_path / "whole", Log(every=2))
    assert run(exp, tmp_path, Log(every=2)).result.metrics == whole.result.metrics
    assert small.told(tmp_path) == small.told(tmp_path / "whole")


REFUSED = {
    "Save is not last": ((Save(every=1), Log(every=1)), "as the last of the hooks"),
    "two of Save": ((Save(every=1), Save(every=2)), "declare one Save"),
    "stop before Evaluate": ((EarlyStop(), Evaluate(every=1)), "no hook before it writes"),
    "reduce without Evaluate": ((Log(every=1), ReduceOnPlateau()), "declare Evaluate"),
    "watches a late record": ((Log(every=1), EarlyStop(metric="train/loss")), "no hook before"),
    "watches another split": ((Evaluate(every=1), EarlyStop(metric="test/loss")), "'test'"),
    "unknown metric": (
        (Evaluate(every=1), EarlyStop(metric="valid/acuracy")),
        "did you mean 'valid/accuracy'",
    ),
    "unknown split": ((Evaluate(every=1, split="vaild"),), "did you mean 'valid'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hooks_that_could_never_act_are_refused_before_anything_runs(case, exp, tmp_path):
    hooks, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        fit(replace(exp, hooks=hooks), tmp_path / "run", devices=ONE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Log(every=0),
        lambda: Evaluate(every=-1),
        lambda: Save(every=0),
        lambda: Save(every=1, last=0),
        lambda: Histograms(every=0),
        lambda: EarlyStop(patience=0),
        lambda: EarlyStop(min_delta=-0.1),
        lambda: EarlyStop(mode="maximum"),
        lambda: ReduceOnPlateau(factor=1.0),
        lambda: ReduceOnPlateau(patience=0),
    ],
)
def test_settings_with_which_a_hook_would_never_act_are_refused(make):
    with pytest.raises(InputError):
        make()


@dataclass(frozen=True)
class Explode:
    """Images that are infinite."""

    def __call__(self, examples, rng):
        return examples | {"image": np.full(examples["image"].shape, np.inf, np.float32)}


@pytest.mark.parametrize(
    ("steps", "every", "ended"), [(50, 4, 12), (50, 1, 9), (5, 4, 5), (3, 50, 3)]
)
def test_a_run_without_one_finite_gradient_fails(steps, every, ended, exp, tmp_path, caplog):
    exp = change(exp, {"data.train_transform": (Explode(),)})
    fitted = run(exp, tmp_path, Log(every=every, give_up=8), steps=steps)
    assert (fitted.code, fitted.result.status, fitted.result.steps) == (1, "failed", ended)
    assert "finite gradient" in caplog.text and read_result(tmp_path).status == "failed"
    assert all(v["skipped"] == 1 for _, split, v in small.told(tmp_path) if split == "train")
    again = run(exp, tmp_path, Log(every=every, give_up=8), steps=steps)
    assert again.code == 1, "running it again must not turn the failure into success"


@dataclass(frozen=True)
class ExplodeOnce:
    """Images that are infinite in one batch of the run."""

    batch: int

    def __call__(self, examples, rng):
        now = rng.examples // len(rng.examples) == self.batch
        image = np.where(now[:, None, None, None], np.inf, examples["image"])
        return examples | {"image": image.astype(np.float32)}


@pytest.mark.parametrize("every", [1, 2, 6])
def test_one_lost_update_ends_no_run_however_often_it_logs(every, exp, tmp_path):
    exp = change(exp, {"data.train_transform": (Scale(0, 16), ExplodeOnce(2))})
    fitted = run(exp, tmp_path, Log(every=every))
    assert (fitted.code, fitted.result.status) == (0, "done")
    lost = [v["skipped"] * every for _, split, v in small.told(tmp_path) if split == "train"]
    assert sum(lost) == pytest.approx(1)


def test_a_log_cut_short_goes_on_under_reordered_hooks(exp, tmp_path, caplog):
    stop = small.At(7, small.send(signal.SIGTERM))
    cut = run(exp, tmp_path, Log(every=5), Evaluate(every=6), watch=(stop,))
    assert cut.code == 75
    run(exp, tmp_path, Evaluate(every=6), Log(every=5))
    assert [s for s, split, _ in small.told(tmp_path) if split == "train"] == [5, 10, 12]
    assert "no hook took up" not in caplog.text


def test_an_interval_of_other_metrics_is_left_out_with_a_warning(
    exp, tmp_path, caplog, monkeypatch
):
    """As after a metric was added to the task's code."""
    run(exp, tmp_path, Log(every=5), watch=(small.At(7, small.send(signal.SIGTERM)),))
    names = Layout.names
    monkeypatch.setattr(Layout, "names", lambda self: [*names(self), "new/total"])
    assert run(exp, tmp_path, Log(every=5)).code == 0
    assert "metrics are others than before" in caplog.text
    assert [s for s, split, _ in small.told(tmp_path) if split == "train"] == [10, 12]


def test_what_a_hook_kept_and_nobody_takes_up_is_said(exp, tmp_path, caplog):
    run(exp, tmp_path, Log(every=5), watch=(small.At(7, small.send(signal.SIGTERM)),))
    run(exp, tmp_path)
    assert "no hook took up what these had kept: LogHook 0" in caplog.text


def test_save_keeps_the_best_few(exp, tmp_path):
    scripted = small.Scripted("valid", "accuracy", (0.9, 0.95, 0.94, 0.93), every=2)
    exp = replace(exp, steps=12, hooks=(scripted, Save(every=1000, last=1, best=2)))
    fit(exp, tmp_path, devices=ONE)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 6, 12]


def test_metrics_of_an_interval_are_means_over_all_of_its_examples(exp, tmp_path):
    fine = [v for *_, v in told_train(run(exp, tmp_path / "1", Log(every=1)), tmp_path / "1")]
    coarse = told_train(run(exp, tmp_path / "5", Log(every=5)), tmp_path / "5")
    assert [step for step, *_ in coarse] == [5, 10, 12]
    for (_, _, mean), part in zip(coarse, (fine[:5], fine[5:10], fine[10:]), strict=True):
        for name in ("loss", "accuracy", "grad_norm"):
            assert mean[name] == pytest.approx(np.mean([v[name] for v in part]), rel=1e-6)
        assert mean["lr"] == part[-1]["lr"]


def told_train(fitted, place):
    assert fitted.result.status == "done"
    return [r for r in small.told(place) if r[1] == "train"]


def test_every_interval_has_a_rate_of_training(exp, tmp_path):
    run(exp, tmp_path, Log(every=3))
    perf = [r for r in read_records(tmp_path) if r.split == "perf"]
    assert [r.step for r in perf] == [3, 6, 9, 12]
    for record in perf:
        assert set(record.values) == {"step_ms", "examples_per_second", "host_mb"}
        assert record.values["step_ms"] * record.values["examples_per_second"] == pytest.approx(
            1e3 * exp.data.batch
        )


def test_what_a_stopping_hook_leaves_is_seen_by_the_hooks_after_it(exp, tmp_path):
    script = small.Scripted("valid", "loss", (1.0, 2.0, 2.0))
    run(exp, tmp_path, script, EarlyStop(patience=1, metric="valid/loss", mode="min"))
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2]
    assert jnp.isfinite(jnp.float32(read_result(tmp_path).seconds))
