"""Bad input: exit code 2, a message that names the remedy, no traceback, nothing touched."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def snapshot(folder):
    found = (p for p in folder.rglob("*") if "__pycache__" not in p.parts)
    return {p: p.read_bytes() if p.is_file() else None for p in found}


def refused(told, *words):
    assert told.code == 2, told.err
    assert "Traceback" not in told.err + told.out
    missing = [word for word in words if word not in told.words]
    assert not missing, f"{missing} not in {told.words}"


def train(*argv):
    return ("train", "exp.py", "--run-dir", "run", *argv)


def sets(*edits):
    return tuple(part for edit in edits for part in ("--set", edit))


CASES = {
    # What was typed.
    "unknown command": (("trian",), "did you mean 'train'"),
    "unknown flag": (train("--sett", "a=1"), "--sett"),
    "no experiment": (("train",), "name an experiment file"),
    "anyway what": (("train", "exp.py", "--anyway"), "--anyway goes with --from RUN"),
    "power of no file": (("power", "exq.py"), "neither exq.py nor runs/exq is there"),
    "a file for a folder": (("ablate", "exp.py", "--run-dir", "text.txt"), "text.txt", "another"),
    "a file for a trace": (("profile", "exp.py", "--out", "text.txt"), "text.txt", "another place"),
    "a sweep of nothing": (("sweep", "exp.py"), 'SPACE = {"optim.peak_lr": LogUniform'),
    "set without =": (train(*sets("steps")), "path=value"),
    "set twice": (train(*sets("steps=1", "steps=2")), "set twice"),
    "unknown key": (train(*sets("optim.peek_lr=1")), "did you mean 'peak_lr'"),
    "unknown hook": (train(*sets("hooks.7.every=1")), "hooks"),
    "fewer than no workers": (train("--workers", "-1"), "workers=-1"),
    "wrong type": (train(*sets("steps=many")), "steps", "int"),
    "a word as a number": (train(*sets("optim.peak_lr=fast")), "peak_lr", "float"),
    "no steps": (train(*sets("steps=0")), "steps=0 must be at least 1"),
    "a rate that is not one": (train(*sets("optim.peak_lr=-1")), "peak_lr=-1"),
    "a cadence that never comes": (train(*sets("hooks.0.every=0")), "every=0"),
    # The experiment file.
    "missing file": (("train", "exq.py"), "exq.py does not exist", "exp.py"),
    "unknown variant": (("train", "exp.py:slwo"), "did you mean 'slow'"),
    "a folder": (("train", "."), "does not exist"),
    # Parts that do not fit each other.
    "a language model on digits": (train(*sets("model=jaxdl.models.gpt:GPT")), "model"),
    "too few classes": (train(*sets("model.classes=9")), "set model.classes=10"),
    "too small a vocabulary": (
        ("train", "exp.py:text", *sets("model.vocab=255")),
        "set model.vocab=256",
    ),
    "too long a sequence": (("train", "exp.py:text", *sets("data.seq=64")), "64 tokens", "seq=64"),
    "heads": (("train", "exp.py:text", *sets("model.heads=3")), "heads"),
    # The machine.
    "batch and devices": (train(*sets("data.batch=60")), "data.batch=60", "8 devices", "56 or 64"),
    "unknown precision": (train(*sets("precision=fp17")), "precision='fp17'", "bf16"),
    "unknown strategy": (train(*sets("rules=ddp")), "unknown strategy 'ddp'", "dp"),
    "mesh product": (train(*sets('mesh={"data":3}')), "there are 8", "data=8"),
    "mesh axis": (train(*sets('mesh={"modle":8}')), "no mesh axis 'modle'", "model"),
    "virtual shards": (
        train(*sets("deterministic_shards=8", "data.batch=60")),
        "data.batch=60 does not divide over 8 virtual shards",
        "try 56 or 64",
    ),
    # The data.
    "missing data": (
        ("train", "exp.py:text", *sets('data.files=("txet.txt",)')),
        "'txet.txt' matches no file",
        "near matches: text.txt",
    ),
    "truncated data": (("train", "exp.py:text", *sets("data.size=5000")), "5,000", "4,096"),
    "changed data": (
        ("train", "exp.py:text", *sets("data.sha256=" + 64 * "0")),
        "expected",
        64 * "0",
    ),
    "too little data": (
        ("train", "exp.py:text", *sets("data.seq=500", "model.seq=500")),
        "the largest seq that fits",
    ),
    # Directories.
    "eval of no run": (("eval", "."), "passport.json"),
    "eval of nothing": (("eval", "nowhere"), "nowhere is not a run directory"),
    "doctor of no run": (("doctor", "nowhere"), "nowhere is not a run directory"),
    "eval of an unknown split": (("eval", ".", "--split", "vaild"), "vaild"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_with_a_remedy_and_touches_nothing(case, jaxdl, place):
    argv, *words = CASES[case]
    before = snapshot(place)
    refused(jaxdl(*argv), *words)
    assert snapshot(place) == before


FILES = {
    "a lambda": (
        "from exp import *\nfrom dataclasses import replace\nfrom exp import base as old\n"
        "def base():\n    return replace(old(), model=MLP((4,), 10, activation=lambda x: x))\n",
        ("model.activation", "lambda", "module level"),
    ),
    "a partial": (
        "from functools import partial\nfrom dataclasses import replace\nfrom exp import *\n"
        "import jax\nfrom exp import base as old\ndef base():\n"
        "    f = partial(jax.nn.leaky_relu, negative_slope=0.1)\n"
        "    return replace(old(), model=MLP((4,), 10, activation=f))\n",
        ("partial", "Part("),
    ),
    "a syntax error": ("def base(:\n", ("bad.py:1", "SyntaxError")),
    "an error": ("def base():\n    return 1 / 0\n", ("bad.py:2", "ZeroDivisionError")),
    "no base": ("x = 1\n", ("defines no base()",)),
    "no experiment": ("def base():\n    return 3\n", ("must return an Experiment",)),
    "odd ablations": ("from exp import base\nABLATIONS = [1]\n", ("ABLATIONS must map",)),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_experiment_file_is_refused_where_it_is_bad(case, jaxdl, place, monkeypatch):
    text, words = FILES[case]
    (place / "bad.py").write_text(text)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    before = snapshot(place)
    refused(jaxdl("train", "bad.py"), *words)
    assert snapshot(place) == before


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def foreign(run):
    shutil.rmtree(run)
    run.mkdir()
    (run / "thesis.tex").write_text("years of work")


def file_instead(run):
    shutil.rmtree(run)
    run.write_text("a file")


def other_data(run):
    edit_json(run / "passport.json", data={"train": "0" * 64})


RUNS = {
    "another experiment": (lambda run: None, sets("seed=1"), ("another experiment", "seed 0 -> 1")),
    "another model": (lambda run: None, sets("model.widths=(8,)"), ("model.widths",)),
    "a file": (file_instead, (), ("cannot write the run directory", "--run-dir")),
    "a foreign directory": (foreign, (), ("is not empty and not a run's", "--run-dir")),
    "other data": (other_data, (), ("the train data differ", "restore the data")),
    "a damaged passport": (
        lambda run: (run / "passport.json").write_text("{"),
        (),
        ("is damaged",),
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_directory_that_cannot_be_used_is_refused(case, jaxdl, place, trained):
    prepare, edits, words = RUNS[case]
    shutil.copytree(trained, place / "run")
    prepare(place / "run")
    before = snapshot(place)
    refused(jaxdl(*train(*edits)), *words)
    assert snapshot(place) == before


def test_checkpoints_of_another_model_are_refused_with_both_shapes(jaxdl, place, trained):
    run = shutil.copytree(trained, place / "run")
    (run / "result.json").unlink()
    assert jaxdl("train", "exp.py", *sets("model.widths=(8,)"), "--run-dir", "other").code == 0
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(place / "other" / "checkpoints", run / "checkpoints")
    before = snapshot(place)
    refused(jaxdl(*train()), "another model", "params/head/kernel is float32[8, 10]", "[16, 10]")
    refused(jaxdl("eval", "run"), "another model", "params/head/kernel")
    assert snapshot(place) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; unmounted afterwards."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("this machine lets nobody mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def read_only(folder):
    if os.getuid():
        folder.chmod(0o555)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder]).returncode:
        pytest.skip("root writes everywhere, and nobody can mount")


def test_a_read_only_directory_is_refused_before_training(jaxdl, place):
    (place / "locked").mkdir()
    read_only(place / "locked")
    try:
        told = jaxdl("train", "exp.py", "--run-dir", "locked/run")
    finally:
        subprocess.run(["umount", place / "locked"], check=False) if not os.getuid() else None
    refused(told, "cannot write the run directory locked/run", "choose another with --run-dir")
    assert "done" not in told.out


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(jaxdl, place, small_disk):
    argv = ("train", "exp.py", "--run-dir", small_disk / "run", "--json")
    argv += sets("model.widths=(256,)", "hooks.2.every=2", "hooks.2.last=99", "steps=12")
    refused(jaxdl(*argv), "No space left on device", "room", "run")
    assert jaxdl("doctor", small_disk / "run").code == 0, "earlier checkpoints are intact"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    told = jaxdl(*argv)
    assert told.code == 0 and "resumed at step" in told.err
    other = jaxdl("train", "exp.py", "--run-dir", place / "whole", *argv[4:])
    assert json.loads(told.out)["metrics"] == json.loads(other.out)["metrics"]


def test_a_traceback_is_shown_on_request(jaxdl, place, monkeypatch):
    monkeypatch.setenv("JAXDL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="peak_lr"):
        jaxdl(*train(*sets("optim.peek_lr=1")))
    assert not Path("run").exists()
