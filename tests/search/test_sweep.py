"""Sweeps of runs that take milliseconds: how trials end, what is kept, who goes on with what."""

import json
import os
import signal
import threading
import time

import pytest

from jaxdl.core import InputError
from jaxdl.core.loading import load_experiment
from jaxdl.core.records import read_records
from jaxdl.search.objective import Objective, parse_objectives
from jaxdl.search.space import Choice, edits_of
from jaxdl.search.sweep import Running, Tail, check_folder
from jaxdl.search.variant import spelt, write_variant

STEPS = 9
"""At which child.py says its loss."""


def starts(plan_folder):
    """How often each trial's run was started."""
    return {p.parent.name: p.read_text().count("\n") for p in plan_folder.glob("*/starts")}


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def test_trials_are_runs_and_the_best_is_the_least(worker, tmp_path):
    told = []
    sweep, study = worker.make(tmp_path / "study", 6, jobs=2, tell=told.append)
    assert sweep.run() == 0
    rows = study.rows()
    assert [row.state for row in rows] == ["done"] * 6
    assert sorted(row.number for row in told) == list(range(6))
    assert [row.values[0] for row in rows] == [row.labels["model.x"] for row in rows]
    assert study.best()[0].values[0] == min(row.values[0] for row in rows)
    steps = study._study.trials[0].intermediate_values
    assert steps[81] == pytest.approx(rows[0].values[0] + 1 / 81) and len(steps) == STEPS
    assert not list((tmp_path / "study").glob(".worker-*"))


def test_the_same_again_does_nothing_and_a_larger_total_goes_on(worker, tmp_path):
    for total in (2, 2, 4):
        sweep, study = worker.make(tmp_path / "study", total)
        assert sweep.run() == 0
    assert starts(tmp_path / "study") == {f"trial-{n:04d}": 1 for n in range(4)}
    straight, other = worker.make(tmp_path / "straight", 4)
    straight.run()
    assert [row.labels for row in other.rows()] == [row.labels for row in study.rows()]


def test_failed_trials_are_kept_and_shown(worker, tmp_path):
    sweep, study = worker.make(tmp_path / "study", 8, space="KINDS", sampler="grid", jobs=2)
    assert sweep.run() == 0
    found = {(r.labels["model.kind"], r.labels["model.width"]): r for r in study.rows()}
    assert len(found) == 8
    assert found["a", 16].state == found["a", 32].state == found["b", 16].state == "done"
    crashed, illegal, lost = found["crash", 16], found["b", 32], found["nan", 16]
    assert {crashed.state, illegal.state, lost.state} == {"failed"}
    assert crashed.failure == "exit code 1: ValueError: the run went wrong"
    assert "width=32 does not suit kind b" in illegal.failure
    assert "valid/loss is not a number" in lost.failure
    assert not (tmp_path / "study" / f"trial-{illegal.number:04d}").exists(), "nothing ran"


def test_a_run_that_is_killed_has_a_second_chance(worker, tmp_path):
    sweep, study = worker.make(tmp_path / "study", 2, space="DEATHS", sampler="grid")
    assert sweep.run() == 0
    assert [row.state for row in study.rows()] == ["done", "failed"]
    assert study.rows()[1].failure == "ended by SIGKILL"
    assert starts(tmp_path / "study") == {"trial-0000": 2, "trial-0001": 2}


def test_a_hopeless_run_that_must_be_killed_is_pruned(worker, tmp_path):
    sweep, study = worker.make(tmp_path / "study", 1)
    run = tmp_path / "study" / "trial-0000"
    tail = Tail(run, "valid/loss")
    running = Running(study.claim(), run, run.with_suffix(".py"), tail, 81, 0.0, why="pruned")
    sweep._conclude(running, -signal.SIGKILL)
    assert study.rows()[0].state == "pruned"


def test_a_folder_whose_storage_is_gone_is_not_gone_on_with(worker, tmp_path):
    folder = tmp_path / "study"
    sweep, study = worker.make(folder, 1)
    check_folder(folder, study._study)
    assert sweep.run() == 0
    check_folder(folder, worker.make(folder, 2)[1]._study)
    for file in folder.glob("study.db*"):
        file.unlink()
    with pytest.raises(InputError, match=r"its storage no longer has.*another --study"):
        check_folder(folder, worker.make(folder, 1)[1]._study)


@pytest.mark.row("R-007")
@pytest.mark.parametrize(
    ("pruner", "total"), [("hyperband", 9), pytest.param("median", 18, marks=pytest.mark.slow)]
)
def test_pruned_trials_really_stop_and_can_be_resumed(pruner, total, worker, tmp_path):
    folder = tmp_path / "study"
    sweep, study = worker.make(folder, total, pruner=pruner, jobs=3, delay=0.3)
    assert sweep.run() == 0
    pruned = [row for row in study.rows() if row.state == "pruned"]
    assert pruned
    for row in pruned:
        run = folder / f"trial-{row.number:04d}"
        (pid,) = map(int, (run / "starts").read_text().split())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        written = len(list(read_records(run)))
        assert 0 < written < STEPS and not (run / "result.json").exists()
    child = worker.start(["train", f"{run}.py", "--run-dir", str(run)], tmp_path / "log")
    assert child.wait() == 0 and len(list(read_records(run))) == STEPS


def test_several_objectives(worker, tmp_path):
    sweep, study = worker.make(tmp_path / "study", 4, objective="valid/loss,seconds")
    assert sweep.run() == 0
    assert all(sum(row.values) == pytest.approx(2) for row in study.rows())
    assert len(study.best()) == 4, "what is better in one is worse in the other"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_sweep_goes_on(number, code, worker, tmp_path):
    folder = tmp_path / "study"
    sweep, study = worker.make(folder, 3, jobs=2, delay=0.3)

    def stop():
        wait_for(lambda: len(starts(folder)) == 2)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    assert sweep.run() == code
    assert [row.state for row in study.rows()] == ["waiting", "waiting"]
    assert not list(folder.glob("*/result.json"))
    params = [row.labels for row in study.rows()]
    again, study = worker.make(folder, 3)
    assert again.run() == 0
    assert [row.labels for row in study.rows()[:2]] == params
    assert all(row.state == "done" for row in study.rows())
    assert starts(folder) == {"trial-0000": 2, "trial-0001": 2, "trial-0002": 1}
    assert len(list(read_records(folder / "trial-0000"))) == STEPS, "it went on, not anew"


@pytest.mark.slow
@pytest.mark.row("R-008")
def test_two_workers_share_one_study_without_a_duplicate(worker, workers, tmp_path):
    folder = tmp_path / "study"
    _, study = worker.make(folder, 20)
    both = [workers(folder, 20, delay=0.01) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    rows = study.rows()
    assert [row.number for row in rows] == list(range(20))
    assert all(row.state == "done" for row in rows)
    assert len({row.labels["model.x"] for row in rows}) == 20
    assert starts(folder) == {f"trial-{n:04d}": 1 for n in range(20)}
    marks = {trial.user_attrs["worker"][0] for trial in study._study.trials}
    assert len(marks) == 2, "each did some"


@pytest.mark.slow
def test_a_killed_workers_trial_goes_on_in_the_same_run(worker, workers, tmp_path):
    folder = tmp_path / "study"
    sweep, study = worker.make(folder, 2)
    lost = workers(folder, 2, delay=0.3)
    wait_for(lambda: starts(folder))
    lost.kill()
    lost.wait()
    assert sweep.run() == 0, "it waits while the orphan trains, then takes its result"
    assert [row.state for row in study.rows()] == ["done", "done"]
    assert len(list(read_records(folder / "trial-0000"))) == STEPS


def test_after_a_fault_the_same_command_takes_its_trials_at_once(worker, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    sweep, study = worker.make(folder, 2, jobs=2, delay=0.3)
    monkeypatch.setattr(study, "report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweep.run()
    assert [row.state for row in study.rows()] == ["running", "running"]
    again, study = worker.make(folder, 2, jobs=2, grace=1e9)
    assert again.run() == 0
    assert [row.state for row in study.rows()] == ["done", "done"]
    assert not list(folder.glob(".worker-*"))


def test_a_worker_that_lost_its_trial_drops_it(worker, tmp_path):
    folder = tmp_path / "study"
    sweep, study = worker.make(folder, 1, delay=0.5, beat=0.1)
    optuna_study = study._study

    def steal():
        wait_for(lambda: starts(folder))
        optuna_study._storage.set_trial_user_attr(
            optuna_study.trials[0]._trial_id, "worker", ["thief", 1]
        )
        wait_for(lambda: not sweep._running)
        optuna_study.tell(0, 5.0)

    helper = threading.Thread(target=steal)
    helper.start()
    assert sweep.run() == 0
    helper.join()
    assert [(row.state, row.values) for row in study.rows()] == [("done", (5.0,))]
    assert not (folder / "trial-0000" / "result.json").exists()


def test_a_tail_gives_every_value_once_and_starts_again_after_a_rewrite(tmp_path):
    tail, file = Tail(tmp_path, "valid/loss"), tmp_path / "metrics.jsonl"
    assert list(tail.fresh()) == []

    def line(step, split="valid", value=0.5):
        return json.dumps({"step": step, "split": split, "values": {"loss": value}}) + "\n"

    file.write_text(line(1) + line(1, "train") + line(2)[:9])
    assert list(tail.fresh()) == [(1, 0.5)]
    with file.open("a") as more:
        more.write(line(2)[9:] + line(3, value=None))
    (two, three) = tail.fresh()
    assert two == (2, 0.5) and three[0] == 3 and three[1] != three[1]
    assert list(tail.fresh()) == []
    (tmp_path / "new").write_text(line(1) + line(4))
    (tmp_path / "new").replace(file)
    assert [step for step, _ in tail.fresh()] == [1, 4]


@pytest.fixture
def exp(worker, tmp_path):
    (tmp_path / "exp.py").write_text(worker.EXPERIMENT)
    return load_experiment(str(tmp_path / "exp.py"))[0]


def test_a_variant_file_is_the_experiment_with_the_edits(exp, tmp_path):
    space = {"model.shape": Choice(((1, 2), ())), "hooks": Choice((exp.hooks, ()))}
    edits = edits_of(space, {"model.shape": "(1, 2)", "hooks": repr(exp.hooks)}) | {"ema": 0.125}
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "best.py"
    write_variant(file, f"{tmp_path}/exp.py:wide", ("steps=7",), edits, 'The "best".')
    made, _ = load_experiment(str(file))
    assert (made.model.shape, made.model.width, made.steps, made.ema) == ((1, 2), 32, 7, 0.125)
    assert made.hooks == exp.hooks


def test_edits_are_spelt_for_the_command_line_where_they_can_be(exp):
    edits = {"model.x": 1e-7, "model.kind": "b", "model.shape": (1,), "mesh": {"data": 2}}
    assert spelt(exp, edits) == [
        *("model.x=1e-07", "model.kind=b", "model.shape=(1,)", "mesh={'data': 2}"),
    ]
    assert spelt(exp, {"hooks": exp.hooks}) is None


def test_objectives_know_their_direction_or_ask(exp):
    assert parse_objectives("", exp) == (Objective("valid/loss", "min"),)
    found = parse_objectives("valid/accuracy:max, seconds,perf/examples_per_second", exp)
    assert [o.mode for o in found] == ["max", "min", "max"]
    for text, told in {
        "valid/accuracy": "which way is better, valid/accuracy:min or :max",
        "accuracy": "neither split/metric, like valid/loss, nor one of seconds",
        "seconds,seconds": "twice",
        "seconds:up": "which way is better",
    }.items():
        with pytest.raises(InputError, match=told):
            parse_objectives(text, exp)
