"""`jaxdl train --from` and `jaxdl why`, as a shell would see them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from jaxdl.cli.rerun import _value
from jaxdl.core import flags
from jaxdl.core.errors import InputError
from jaxdl.core.records import read_passport, read_records, read_result


def numbers(run):
    told = [(r.step, r.split, r.values) for r in read_records(run) if r.split != "perf"]
    return told, read_result(run).metrics


def edit(run, **changes):
    path = run / "passport.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of a finished run, in a folder with its experiment."""
    shutil.copy(trained.parent / "exp.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.row("C-004")
def test_a_run_is_repeated_from_its_passport(jaxdl, trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    told = jaxdl("train", "--from", "run", "--json")
    again = trained.parent / "run-again"
    assert told.code == 0 and "the same numbers as run in" in told.words
    assert numbers(again) == numbers(trained)
    assert read_passport(again).source == read_passport(trained).source == "exp.py"
    result, passport = read_result(again), read_passport(again)
    assert result.memory_mb > 100 and passport.parameters == 8 * 8 * 16 + 16 + 160 + 10
    # Forward and the gradients of weights; the first layer's input needs none.
    forward = 2 * 64 * (64 * 16 + 16 * 10)
    assert passport.flops == 2 * forward + 2 * 64 * 16 * 10


OTHER = {
    "environment": ({"flags": {"XLA_FLAGS": "--other"}}, "environment XLA_FLAGS: --other ->"),
    "data": ({"data": {"train": "f" * 64}}, "data train: ffffffffffff ->"),
    "devices": ({"devices": {"count": 3}}, "devices count: 3 -> 8"),
    "versions": ({"versions": {"optax": "0.1"}}, "versions optax: 0.1 ->"),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_conditions_are_refused_and_named(case, jaxdl, run):
    changes, words = OTHER[case]
    edit(run, **changes)
    told = jaxdl("train", "--from", "run")
    assert told.code == 2 and words in told.words and "--anyway" in told.words
    assert not (run.parent / "run-again").exists()


def test_other_code_is_refused_with_its_line(jaxdl, run):
    path = run.parent / "exp.py"
    path.write_text(path.read_text() + "\nMORE = 1\n")
    told = jaxdl("train", "--from", "run")
    assert told.code == 2 and "code exp.py" in told.words


def test_anyway_repeats_and_still_tells(jaxdl, run):
    edit(run, data=read_passport(run).data | {"train": "f" * 64})
    told = jaxdl("train", "--from", "run", "--anyway", "--json")
    assert told.code == 0
    assert "data train: ffffffffffff ->" in told.words and "the same numbers" in told.words


BAD = {
    "nothing to train": ((), "name an experiment file"),
    "a file and a run": (("exp.py", "--from", "run"), "leave exp.py out"),
    "edits of a run": (("--from", "run", "--set", "seed=1"), "leave --set out"),
    "no run": (("--from", "."), "is not a run directory"),
    "onto itself": (("--from", "run", "--run-dir", "run"), "choose another --run-dir"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_repeated_is_refused(case, jaxdl, run):
    arguments, words = BAD[case]
    told = jaxdl("train", *arguments)
    assert told.code == 2 and words in told.words


def test_why_says_that_two_runs_are_the_same(jaxdl, run):
    shutil.copytree(run, run.parent / "twin")
    told = jaxdl("why", "run", "twin")
    assert told.code == 0 and "The same in everything recorded." in told.out
    (found,) = (json.loads(line) for line in jaxdl("why", "run", "twin", "--json").out.splitlines())
    assert found["same"] and found["likely"] == [] and found["parting"] is None


def test_why_names_the_difference_and_where_the_numbers_part(jaxdl, run):
    twin = shutil.copytree(run, run.parent / "twin")
    edit(twin, experiment=read_passport(run).experiment | {"seed": 4})
    lines = (twin / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["values"]["loss"] += 1
    (twin / "metrics.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    told = jaxdl("why", "run", "twin")
    assert "part at step 5" in told.out
    a, b, by = next(line for line in told.out.splitlines() if "train/loss" in line).split()[1:]
    assert float(b) == pytest.approx(float(a) + 1) and by == "+1"
    assert "seed" in told.out.split("What differs:")[1]
    (found,) = (json.loads(line) for line in jaxdl("why", "run", "twin", "--json").out.splitlines())
    assert found["likely"][0] == {"kind": "seed", "name": "seed", "a": "0", "b": "4"}
    assert found["parting"]["metric"] == "loss" and found["parting"]["step"] == 5


def test_why_says_which_run_has_no_numbers(jaxdl, run):
    twin = shutil.copytree(run, run.parent / "twin")
    for name in ("metrics.jsonl", "result.json"):
        (twin / name).unlink()
    edit(twin, experiment=read_passport(run).experiment | {"seed": 4})
    told = jaxdl("why", "run", "twin")
    assert "There are no numbers of b." in told.out and "What differs:" in told.out


def test_why_wants_two_runs(jaxdl, run):
    told = jaxdl("why", "run", "elsewhere")
    assert told.code == 2 and "elsewhere is not a run directory" in told.words
    told = jaxdl("why", "run", "../" + run.parent.name + "/run")
    assert told.code == 2 and "name two runs" in told.words


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_fault(run):
    shutil.copytree(run, run.parent / "twin")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jaxdl", "why", "run", "twin"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
def test_bisect_runs_again_until_the_cause_is_named(jaxdl, run):
    edits = ("--set", "seed=4", "--set", "hooks.1.every=20", "--set", "optim.peak_lr=0.02")
    assert jaxdl("train", "exp.py", *edits, "--run-dir", "other", "--json").code == 0
    told = jaxdl("why", "run", "other", "--bisect")
    assert "together they give b's numbers" in told.out, told.out
    assert "seed, config optim.peak_lr" in told.out.split("Cause:")[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_bisect_that_is_ended_leaves_no_process_and_no_folder(number, jaxdl, run):
    assert jaxdl("train", "exp.py", "--set", "seed=4", "--run-dir", "other", "--json").code == 0
    places = run.parent / "places"
    places.mkdir()
    command = [sys.executable, "-m", "jaxdl", "why", "run", "other", "--bisect"]
    env = os.environ | {"TMPDIR": str(places)}
    parent = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    while not (trials := [p for p in psutil.Process(parent.pid).children() if is_trial(p)]):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    code = parent.wait(30)
    psutil.wait_procs(trials, timeout=2)  # by itself one takes longer: it imports and compiles
    assert not any(trial.is_running() for trial in trials)
    if number != signal.SIGKILL:
        assert code == 128 + number and not list(places.iterdir())


def is_trial(process):
    return any(part.endswith("again.py") for part in process.cmdline())


ROLLED = """

class Rolled(Digits):
    def plan(self, split):
        return (lambda seed, e: (e + 1) % 1197) if split == "train" else None


ABLATIONS["rolled"] = {"data": Rolled(batch=64, eval_batch=120)}
"""


@pytest.mark.slow
def test_bisect_takes_the_code_of_the_other_run(jaxdl, run):
    path = run.parent / "exp.py"
    path.write_text(path.read_text() + ROLLED)
    assert jaxdl("train", "exp.py:rolled", "--run-dir", "a", "--json").code == 0
    path.write_text(path.read_text().replace("(e + 1)", "(e + 64)"))
    edits = ("--set", "optim.decay=0.0", "--set", "hooks.2.every=20")
    assert jaxdl("train", "exp.py:rolled", *edits, "--run-dir", "b", "--json").code == 0
    path.unlink()  # both are put back
    told = jaxdl("why", "a", "b", "--bisect")
    cause = told.out.split("Cause:")[1]
    assert cause.startswith(" code exp.py:") and "alone" in cause, told.out


def test_a_rerun_takes_a_variable_of_which_a_digest_was_kept_from_here(monkeypatch):
    told = flags.kept("MY_SCALE", "1.5")
    assert told and "1.5" not in told
    monkeypatch.setenv("MY_SCALE", "1.5")
    assert _value("MY_SCALE", told) == "1.5" and _value("XLA_FLAGS", "--a") == "--a"
    monkeypatch.setenv("MY_SCALE", "2")
    with pytest.raises(InputError, match="set it to what it was"):
        _value("MY_SCALE", told)
