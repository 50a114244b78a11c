"""From an experiment to a finished run: it learns, it logs, it repeats itself bit for bit."""

import signal
import sys
from dataclasses import replace

import jax
import pytest

from jaxdl.core.change import change
from jaxdl.core.codec import load
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.core.records import read_passport, read_records, read_result
from jaxdl.data import Digits
from jaxdl.models.mlp import MLP
from jaxdl.models.vit import ViT
from jaxdl.optim import AdamW, Constant, Cosine
from jaxdl.train import EarlyStop, Evaluate, Log, Save, fit
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.rundir import RunDir

small = load_file(__file__.replace("test_fit", "small"))
ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def exp():
    return replace(small.base(), hooks=(Log(every=4), Evaluate(every=10), Save(every=10)), steps=20)


@pytest.fixture(scope="module")
def whole(exp, tmp_path_factory):
    place = tmp_path_factory.mktemp("fit") / "run"
    return place, fit(exp, place, devices=ONE)


@pytest.mark.row("C-009")
def test_a_small_network_reads_digits_and_every_step_is_told(tmp_path):
    exp = replace(
        small.base(),
        model=MLP(widths=(64,), classes=10),
        data=Digits(batch=64, eval_batch=120),
        optim=AdamW(peak_lr=1e-2, clip=1.0, schedule=Cosine(warmup=20)),
        precision="f32",
        ema=0.0,
        steps=300,
        hooks=(Log(every=10), Evaluate(every=100), Save(every=100)),
    )
    fitted = fit(exp, tmp_path, devices=ONE)
    assert fitted.result.metrics["test"]["accuracy"] >= 0.95
    found = list(read_records(tmp_path))
    train = [r for r in found if r.split == "train"]
    assert [r.step for r in train] == list(range(10, 301, 10))
    assert all({"loss", "accuracy", "grad_norm", "lr", "skipped"} == set(r.values) for r in train)
    assert train[-1].values["loss"] < 0.1 * train[0].values["loss"]
    rates = [r.values["lr"] for r in train]
    assert rates[0] == pytest.approx(0.5e-2) and rates[-1] < 1e-5 and max(rates) <= 1e-2
    perf = [r for r in found if r.split == "perf"]
    assert [r.step for r in perf] == [r.step for r in train]
    assert all(r.values["examples_per_second"] > 0 for r in perf)
    assert [r.step for r in found if r.split == "valid"] == [100, 200, 300]


def test_bf16_reads_digits_too(tmp_path):
    exp = replace(
        small.base(),
        model=MLP(widths=(64,), classes=10),
        data=Digits(batch=64, eval_batch=120),
        precision="bf16",
        steps=200,
        hooks=(),
    )
    fitted = fit(exp, tmp_path, devices=ONE)
    assert fitted.result.metrics["test"]["accuracy"] >= 0.93
    assert {str(x.dtype) for x in jax.tree.leaves(fitted.state.params)} == {"float32"}
    assert Checkpoints(tmp_path / "checkpoints").steps() == [200], "the end is saved without Save"
    assert not list(read_records(tmp_path))


@pytest.mark.row("C-004")
def test_the_same_experiment_again_gives_the_same_bits(exp, whole, tmp_path):
    place, fitted = whole
    again = fit(exp, tmp_path, devices=ONE)
    assert small.told(tmp_path) == small.told(place)
    assert small.leaves(again.state) == small.leaves(fitted.state)
    assert again.result.metrics == fitted.result.metrics
    other = fit(change(exp, {"seed": 1}), tmp_path / "other", devices=ONE)
    assert other.result.metrics != fitted.result.metrics


def test_reading_processes_change_no_bit(exp, whole, tmp_path):
    place, fitted = whole
    again = fit(exp, tmp_path / "run", devices=ONE, workers=2)
    assert small.told(tmp_path / "run") == small.told(place)
    assert small.leaves(again.state) == small.leaves(fitted.state)
    with pytest.raises(InputError, match="workers=-1 must be 0"):
        fit(exp, tmp_path / "none", workers=-1)
    assert not (tmp_path / "none").exists()


def test_a_finished_run_is_only_reported(exp, whole, monkeypatch):
    place, fitted = whole
    module = sys.modules["jaxdl.train.fit"]
    monkeypatch.setattr(module, "build", lambda *a: pytest.fail("it was built again"))
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    again = fit(exp, place, devices=ONE)
    assert (again.result, again.code, again.program) == (fitted.result, 0, None)
    assert fit(change(exp, {"steps": 15}), place, devices=ONE).result == fitted.result
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


def test_more_steps_continue_a_finished_run_as_if_it_had_not_ended(exp, tmp_path, caplog):
    exp = change(exp, {"optim.schedule": Constant(), "hooks.0.every": 7})
    fit(exp, tmp_path / "run", devices=ONE)
    with caplog.at_level("INFO", "jaxdl"):
        longer = fit(change(exp, {"steps": 30}), tmp_path / "run", devices=ONE)
    assert "resumed at step 20 of 30" in caplog.text
    assert (longer.result.status, longer.result.steps) == ("done", 30)
    fit(change(exp, {"steps": 30}), tmp_path / "whole", devices=ONE)
    assert small.told(tmp_path / "run") == small.told(tmp_path / "whole")


def test_a_run_that_fails_before_its_first_step_can_be_started_again(exp, tmp_path, monkeypatch):
    def broken(*args):
        raise MemoryError("no room for the state")

    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "begin", broken)
        with pytest.raises(MemoryError, match="no room"):
            fit(exp, tmp_path / "run", devices=ONE)
    with pytest.raises(KeyboardInterrupt):
        fit(exp, tmp_path / "run", watch=interrupted, devices=ONE)
    assert fit(exp, tmp_path / "run", devices=ONE).code == 0


def interrupted(program, run):
    raise KeyboardInterrupt


def test_time_is_counted_over_all_sittings(exp, tmp_path):
    stop = small.watch(small.At(11, small.send(15)))
    first = fit(exp, tmp_path, watch=stop, devices=ONE).result.seconds
    second = fit(exp, tmp_path, devices=ONE).result.seconds
    assert 0 < first < second == read_result(tmp_path).seconds
    times = [r.time for r in read_records(tmp_path)]
    assert times == sorted(times)


def test_a_second_process_is_kept_out_of_a_run(exp, tmp_path):
    refused = []

    def second():
        with pytest.raises(InputError, match="another process trains in"):
            fit(exp, tmp_path / "run", devices=ONE)
        refused.append(True)

    fitted = fit(exp, tmp_path / "run", watch=small.watch(small.At(5, second)), devices=ONE)
    assert refused and fitted.result.status == "done"


def test_sigterm_during_the_last_evaluation_is_a_preemption(whole, exp, tmp_path, monkeypatch):
    module = sys.modules["jaxdl.train.fit"]
    real = module.evaluate

    def evaluate(*args):
        small.send(signal.SIGTERM)()
        return real(*args)

    monkeypatch.setattr(module, "evaluate", evaluate)
    cut = fit(exp, tmp_path / "run", devices=ONE)
    assert (cut.code, cut.result.status, cut.result.steps) == (75, "preempted", exp.steps)
    monkeypatch.undo()
    again = fit(exp, tmp_path / "run", devices=ONE)
    assert again.code == 0 and again.result.metrics == whole[1].result.metrics


def test_a_run_ended_by_its_hooks_goes_on_under_others(exp, tmp_path, caplog):
    script = small.Scripted("valid", "accuracy", (0.5, 0.5, 0.5), every=5)
    first = replace(exp, hooks=(script, EarlyStop(patience=2), Save(every=10)))
    stopped = fit(first, tmp_path, devices=ONE)
    assert (stopped.result.status, stopped.result.steps) == ("stopped", 15)
    caplog.clear()
    assert fit(first, tmp_path, devices=ONE).result == stopped.result
    caplog.set_level("INFO", "jaxdl")
    fit(first, tmp_path, devices=ONE)
    assert "nothing was trained" in caplog.text
    second = replace(exp, hooks=(script, EarlyStop(patience=9), Save(every=10)))
    went_on = fit(second, tmp_path, devices=ONE)
    assert (went_on.result.status, went_on.result.steps) == ("done", exp.steps)
    passport = read_passport(tmp_path)
    assert [s["step"] for s in passport.sittings] == [15]
    assert load(passport.experiment).hooks == second.hooks


def test_the_passport_says_which_kernels_ran_where(exp, tmp_path):
    model = ViT(patch=4, width=16, depth=1, heads=2, classes=10)
    fit(replace(exp, model=model, steps=6, hooks=()), tmp_path, devices=ONE)
    kernels = read_passport(tmp_path).kernels
    assert all({"platform", "shape", "refused"} <= set(kernel) for kernel in kernels)
    took = {(k["kernel"], k["shape"].split(" k ")[0], k["took"]) for k in kernels}
    passes = {took for took in took if took[0].startswith("flash_attention")}
    # Of the batches of this program, 64 to train and 120 to evaluate, and of nothing before it.
    assert passes == {
        ("flash_attention forward", "q [64, 5, 2, 8]", "cpu"),
        ("flash_attention backward", "q [64, 5, 2, 8]", "cpu"),
        ("flash_attention forward", "q [120, 5, 2, 8]", "cpu"),
    }
