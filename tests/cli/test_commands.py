"""The commands: help, JSON, the numbers of a run, and Ctrl-C."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jaxdl.cli import COMMANDS, main
from jaxdl.core.records import read_passport, read_records, read_result
from jaxdl.train.checkpoint import signed
from jaxdl.train.hooks.log import LogHook


def lines(told):
    """stdout as JSON objects, one a line and nothing else."""
    return [json.loads(line, parse_constant=pytest.fail) for line in told.out.splitlines()]


def metrics(directory):
    found = read_records(directory)
    return [(r.step, r.split, dict(r.values)) for r in found if r.split != "perf"]


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_help_lists_every_command_with_an_example(argv, jaxdl):
    told = jaxdl(*argv)
    assert told.code == 0 and "example: jaxdl train" in told.out and not told.err
    assert all(f"  {name} " in told.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example_and_every_option(command, jaxdl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    told = jaxdl(command, "--help")
    assert told.code == 0 and f"Example: jaxdl {command}" in told.out
    assert "--json" in told.out and "no-json" not in told.out
    wide = [line for line in told.out.splitlines() if len(line) > 80]
    assert all(line.startswith(("Example: ", "usage: ")) for line in wide), wide


def test_python_m_jaxdl_is_jaxdl():
    done = subprocess.run(
        [sys.executable, "-m", "jaxdl", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"jaxdl \d+\.\d+\.\d+\S*\n", done.stdout)


def test_train_shows_the_model_the_progress_and_where_everything_is(jaxdl, place):
    told = jaxdl("train", "exp.py", "--set", "steps=10", "--run-dir", "run")
    assert told.code == 0
    for words in (
        "8 devices",
        "head",
        "1,210",
        "done after 10 steps",
        "accuracy",
        "run/curves.png",
    ):
        assert words in " ".join(told.out.split()), told.out
    assert "5/10 train" in told.err and "10/10 valid" in told.err
    found = {p.name for p in (place / "run").iterdir()}
    assert found - {"jaxdl.patch"} == {  # that one is there while jaxdl itself is being edited
        *("passport.json", "metrics.jsonl", "result.json", "tensorboard", "checkpoints"),
        *("code.json", "code.patch"),
        *("curves.png", "samples.png"),
    }


def test_a_finished_run_again_prints_its_result_without_training(jaxdl, trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.suffix in (".json", ".jsonl")}
    module = sys.modules["jaxdl.train.fit"]  # the attribute of this name is the function
    monkeypatch.setattr(module, "train", lambda *a: pytest.fail("it trained again"))
    told = jaxdl("train", "exp.py", "--run-dir", "run", "--json")
    assert told.code == 0
    assert lines(told)[0]["metrics"] == read_result(trained).metrics
    assert before == {p: p.read_bytes() for p in before}


@pytest.mark.row("C-004")
def test_the_same_command_elsewhere_gives_the_same_records(jaxdl, trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    told = jaxdl("train", "exp.py", "--json", "--run-dir", "again")
    again = trained.parent / "again"
    assert metrics(again) == metrics(trained)
    (result,) = lines(told)
    assert result["metrics"] == read_result(trained).metrics and result["status"] == "done"
    old, new = read_passport(trained), read_passport(again)
    assert old.experiment == new.experiment and old.digest == new.digest


def test_set_repeats_and_the_default_directory_names_file_variant_and_digest(jaxdl, place):
    argv = ("train", "exp.py:slow", "--set", "steps=2", "--set", "model.widths=(4,)", "--json")
    told = jaxdl(*argv, "--set", "optim.decay=0.25")
    (result,) = lines(told)
    (run,) = (place / "runs" / "exp").iterdir()
    passport = read_passport(run)
    assert run.name == f"slow-{passport.digest}" and result["run"] == f"runs/exp/{run.name}"
    optim = passport.experiment["optim"]
    assert (result["steps"], passport.experiment["model"]["widths"]) == (2, [4])
    assert (optim["decay"], optim["peak_lr"]) == (0.25, 1e-4)
    assert passport.source == ("exp.py:slow steps=2 model.widths=(4,) optim.decay=0.25")


def test_eval_gives_the_numbers_of_the_result(jaxdl, trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    result = read_result(trained)
    for split in ("test", "valid"):
        (told,) = lines(jaxdl("eval", "run", "--split", split, "--json"))
        assert told["values"] == result.metrics[split]
        assert (told["step"], told["split"]) == (result.best["step"], split)
    shown = jaxdl("eval", "run")
    assert shown.code == 0 and f"{result.metrics['test']['accuracy']:.4f}" in shown.out


def test_eval_takes_the_best_checkpoint_or_the_newest(jaxdl, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    best = run / "checkpoints" / "00000010" / "manifest.json"
    manifest = json.loads(best.read_text())
    manifest["metrics"]["valid/accuracy"] = 2.0
    best.write_text(signed({k: v for k, v in manifest.items() if k != "digest"}))
    assert lines(jaxdl("eval", run, "--json"))[0]["step"] == 10
    assert lines(jaxdl("eval", run, "--json", "--last"))[0]["step"] == 20
    best.write_text("{}")
    told = jaxdl("eval", run, "--json")
    assert lines(told)[0]["step"] == 20


def test_eval_without_any_checkpoint_says_so(jaxdl, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    told = jaxdl("eval", run)
    assert told.code == 2 and "has no checkpoint yet; train it first" in told.words


def test_doctor_checks_the_installation(jaxdl, place):
    told = jaxdl("doctor", "--json")
    checks = {line["check"]: line for line in lines(told)}
    assert told.code == 0 and all(line["ok"] for line in checks.values())
    assert {"version jax", "devices", "import jaxdl", "write runs", "write data"} <= set(checks)
    assert "8 x" in checks["devices"]["told"]


def test_doctor_finds_a_flipped_byte_and_a_missing_manifest(jaxdl, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    assert [line["ok"] for line in lines(jaxdl("doctor", run, "--json"))] == [True, True]
    step = run / "checkpoints" / "00000020"
    target = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(target.read_bytes())
    content[100] ^= 8
    target.write_bytes(content)
    told = jaxdl("doctor", run, "--json")
    assert told.code == 1 and [line["ok"] for line in lines(told)] == [True, False]
    assert "has changed since it was written" in lines(told)[1]["told"]
    (run / "checkpoints" / "00000010" / "manifest.json").unlink()
    told = jaxdl("doctor", run)
    assert told.code == 1 and told.out.count("FAIL") == 2 and "Traceback" not in told.err


def test_ctrl_c_while_training_exits_130_and_the_command_resumes(
    jaxdl, trained, place, monkeypatch
):
    argv, real = ("train", "exp.py", "--run-dir", "run", "--json"), LogHook.__call__

    def interrupting(hook, step, *rest):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return real(hook, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(LogHook, "__call__", interrupting)
        told = jaxdl(*argv)
    assert told.code == 130 and lines(told)[0]["status"] == "preempted"
    assert "Ctrl-C after update 7" in told.err and "Traceback" not in told.err
    assert jaxdl(*argv).code == 0
    assert metrics(place / "run") == metrics(trained)


@pytest.mark.parametrize("delay", [0.5, 2.5])
def test_ctrl_c_during_start_up_exits_130_without_a_traceback(delay, place):
    run = subprocess.Popen(
        [sys.executable, "-m", "jaxdl", "train", "exp.py", "--set", "steps=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(delay)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Traceback" not in out + err


def test_the_run_is_interruptible_only_while_a_command_runs():
    before = signal.getsignal(signal.SIGINT)
    assert main(["--version"]) == 0 and main(["nonsense"]) == 2
    assert signal.getsignal(signal.SIGINT) is before
