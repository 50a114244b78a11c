"""A run that is killed or asked to end goes on to the same bits."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest

from jaxdl.core.change import change
from jaxdl.core.loading import load_file
from jaxdl.core.records import read_records, read_result
from jaxdl.train import fit
from jaxdl.train.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "train" / "small.py"
small = load_file(SMALL)
pytestmark = pytest.mark.usefixtures("shared_programs")
ONE = jax.devices()[:1]


def newest(directory, exp, devices=ONE):
    program = sys.modules["jaxdl.train.fit"].build(exp, devices)  # the shared one
    return small.leaves(Checkpoints(directory / "checkpoints").restore(program.abstract))


@pytest.fixture(autouse=True)
def in_the_main_thread():
    """Real signals reach this process: without handlers they would end the test run."""
    assert threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    assert before == {n: signal.getsignal(n) for n in before}, "handlers were left behind"


@pytest.fixture(scope="module")
def experiments():
    base = small.base()
    return {"base": base, "log7": change(base, small.ABLATIONS["log7"])}


@pytest.fixture(scope="module")
def whole(experiments, tmp_path_factory):
    """The uninterrupted runs: directory, result, bytes of the last state."""
    found = {}
    for name, exp in experiments.items():
        place = tmp_path_factory.mktemp("whole") / name
        result = fit(exp, place, devices=ONE).result
        found[name] = (place, result, newest(place, exp))
    return found


def assert_same_run(directory, result, exp, whole):
    place, expected, state = whole
    assert small.told(directory) == small.told(place)
    steps = [(r.step, r.split) for r in read_records(directory)]
    assert len(steps) == len(set(steps)), "a record came twice"
    times = [r.time for r in read_records(directory)]
    assert times == sorted(times), "time ran backwards"
    assert (result.status, result.steps) == (expected.status, expected.steps) == ("done", 60)
    assert result.metrics == expected.metrics and result.best == expected.best
    assert newest(directory, exp) == state


@pytest.mark.row("C-035")
@pytest.mark.parametrize(
    ("variant", "wait", "restarts"), [("base", ["wait"], (30,)), ("log7", [], (10, 20, 30))]
)
def test_a_killed_run_resumes_to_the_same_bits(
    variant, wait, restarts, experiments, whole, tmp_path, caplog, monkeypatch
):
    monkeypatch.chdir(ROOT)
    killed = subprocess.run(
        [sys.executable, SMALL, variant, tmp_path / "run", "37", "SIGKILL", *wait],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_result(tmp_path / "run") is None
    with caplog.at_level("INFO", "jaxdl"):
        fitted = fit(experiments[variant], tmp_path / "run", devices=ONE)
    assert any(f"resumed at step {n} of 60" in caplog.text for n in restarts), caplog.text
    assert_same_run(tmp_path / "run", fitted.result, experiments[variant], whole[variant])
    assert not list((tmp_path / "run" / "checkpoints").glob("writing-*"))


@pytest.mark.row("C-035")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_in_mid_interval_saves_and_the_run_resumes_to_the_same_bits(
    number, code, experiments, whole, tmp_path
):
    exp, place = experiments["log7"], tmp_path / "run"
    sittings = [
        fit(exp, place, watch=small.watch(small.At(step, small.send(number))), devices=ONE)
        for step in (13, 37, 60)
    ]
    assert [f.code for f in sittings] == [code] * 3
    assert [f.result.status for f in sittings] == ["preempted"] * 3
    assert [f.result.steps for f in sittings] == [13, 37, 60]
    assert read_result(place).status == "preempted" and not read_result(place).metrics
    fitted = fit(exp, place, devices=ONE)
    assert fitted.code == 0
    assert_same_run(place, fitted.result, exp, whole["log7"])


def test_a_second_ctrl_c_aborts_and_the_run_still_resumes_to_the_same_bits(
    experiments, whole, tmp_path
):
    exp, place = experiments["log7"], tmp_path / "run"
    twice = small.At(40, small.send(signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(exp, place, watch=small.watch(twice), devices=ONE)
    assert read_result(place).status == "failed"
    fitted = fit(exp, place, devices=ONE)
    assert_same_run(place, fitted.result, exp, whole["log7"])


@pytest.mark.parametrize("count", [1, 8])
def test_a_gan_is_interrupted_and_resumed_to_the_same_bits(count, tmp_path):
    exp, devices = small.gan(), jax.devices()[:count]
    whole = fit(exp, tmp_path / "whole", devices=devices)
    stop = small.watch(small.At(11, small.send(signal.SIGTERM)))
    assert fit(exp, tmp_path / "cut", watch=stop, devices=devices).code == 75
    cut = fit(exp, tmp_path / "cut", devices=devices)
    assert small.told(tmp_path / "cut") == small.told(tmp_path / "whole")
    assert {"critic.loss", "generator.loss", "critic.lr"} <= set(small.told(tmp_path / "cut")[0][2])
    assert newest(tmp_path / "cut", exp, devices) == newest(tmp_path / "whole", exp, devices)
    assert cut.result.metrics == whole.result.metrics


def test_sigterm_of_the_command_line_exits_75_without_a_traceback(tmp_path):
    edits = ["--set", "steps=1000000", "--set", "hooks.2.every=1000000", "--json"]
    run = subprocess.Popen(
        [sys.executable, "-m", "jaxdl", "train", SMALL, "--run-dir", tmp_path / "run", *edits],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},  # one device compiles sooner
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while run.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        threading.Event().wait(0.05)
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 75, err
    assert "Traceback" not in err and "SIGTERM" in err
    assert read_result(tmp_path / "run").status == "preempted"
    assert '"preempted"' in out and out.count("\n") == 1
