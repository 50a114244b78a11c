"""Several processes train as one does, and end as one."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli import launch
from jaxdl.core.change import change
from jaxdl.core.loading import load_file
from jaxdl.core.records import read_result
from jaxdl.train import build, fit
from jaxdl.train.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
SEVERAL = "tests/cli/several.py"
several = load_file(ROOT / SEVERAL)
small = several.small
pytestmark = pytest.mark.multihost


def command(variant, directory, *options):
    python = [sys.executable, "-m", "jaxdl", "train", f"{SEVERAL}:{variant}"]
    return [str(x) for x in (*python, "--run-dir", directory, "--json", *options)]


def environment(folder, **more):
    return os.environ | {"TOLD": str(folder), "JAXDL_START_SECONDS": "30"} | more


def rehearse(variant, directory, processes, devices, *options):
    """A run of several processes; it has ended."""
    sizes = ("--processes", processes, "--devices-per-process", devices)
    return subprocess.run(
        command(variant, directory, *sizes, *options),
        cwd=ROOT,
        env=environment(directory.parent),
        capture_output=True,
        text=True,
        timeout=240,
    )


def experiment(variant):
    return change(several.base(), several.ABLATIONS.get(variant, {}))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Where runs of this process are told of too."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TOLD", str(tmp_path / "alone"))
    return tmp_path


def assert_same_records(directory, whole, rtol=1e-6):
    """Those of training to `rtol`; evaluation adds over devices in the compiler's order always."""
    mine, theirs = small.told(directory), small.told(whole)
    assert [record[:2] for record in mine] == [record[:2] for record in theirs]
    for (step, split, values), (_, _, expected) in zip(mine, theirs, strict=True):
        near = rtol if split == "train" else 1e-6
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, rel=near, abs=near), (step, split, name)


def assert_same_states(directory, whole, exp, rtol=1e-6):
    """The last checkpoints, both read by this one process."""
    wanted = build(exp).abstract
    mine, theirs = (Checkpoints(d / "checkpoints").restore(wanted) for d in (directory, whole))
    for a, b in zip(*map(jax.tree.leaves, (mine, theirs)), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=rtol)


def shards(folder, processes):
    """By process the examples that it read for the five batches of the first epoch."""
    files = [folder / f"read-{i}" for i in range(processes)]
    lines = [file.read_text().splitlines()[:5] for file in files]
    return [{int(n) for line in of for n in line.split()} for of in lines]


@pytest.mark.row("C-026")
def test_two_processes_of_four_devices_train_as_one_of_eight(here):
    done = rehearse("fsdp", here / "run", 2, 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and '"status": "done"' in done.stdout
    exp = experiment("fsdp")
    result = fit(exp, here / "whole").result
    assert len([r for r in small.told(here / "run") if r[1] == "train"]) == 5
    assert_same_records(here / "run", here / "whole")
    assert_same_states(here / "run", here / "whole", exp)
    assert read_result(here / "run").metrics["test"] == pytest.approx(result.metrics["test"])
    first, second = shards(here, 2)
    assert not first & second
    assert first | second == set(range(several.EXAMPLES))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "rtol"), [("base", 1e-6), ("fsdp", 1e-6), ("explicit", 1e-6), ("bits", 0)]
)
def test_four_processes_of_two_devices_train_as_one_of_eight(variant, rtol, here):
    done = rehearse(variant, here / "run", 4, 2, "--workers", 1)
    assert done.returncode == 0, done.stderr
    exp = experiment(variant)
    fit(exp, here / "whole")
    assert_same_records(here / "run", here / "whole", rtol)
    assert_same_states(here / "run", here / "whole", exp, rtol)


@pytest.mark.slow
def test_a_run_moves_between_four_one_and_two_processes(here, monkeypatch):
    exp = experiment("long")
    fit(exp, here / "whole")
    cut = rehearse("preempted", here / "run", 4, 2)
    assert cut.returncode == 75, cut.stderr
    at = read_result(here / "run")
    assert at.status == "preempted" and 15 <= at.steps < 40
    assert Checkpoints(here / "run" / "checkpoints").steps()[-1] == at.steps
    stop = small.At(at.steps + 2, small.send(signal.SIGTERM))
    assert fit(exp, here / "run", watch=small.watch(stop)).code == 75
    done = rehearse("long", here / "run", 2, 4)
    assert done.returncode == 0, done.stderr
    assert_same_records(here / "run", here / "whole")
    assert_same_states(here / "run", here / "whole", exp)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "code", "words"),
    [
        ("killed", 137, "process 1 of 2 was ended by SIGKILL, so all end"),
        ("failing", 1, "process 1 of 2 ended with exit code 1, so all end; its last words"),
    ],
)
def test_all_end_with_one_and_the_same_command_resumes(variant, code, words, here):
    ended = rehearse(variant, here / "run", 2, 2)
    assert ended.returncode == code and words in ended.stderr
    assert ("had enough" in ended.stderr.split(words)[1]) == (variant == "failing")
    again = rehearse(variant, here / "run", 2, 2)
    assert again.returncode == 0, again.stderr
    # The save of step 20 waited for that of 10, and may itself have been cut.
    assert re.search("resumed at step (10|20) of 40", again.stderr)
    fit(experiment("long"), here / "whole", devices=jax.devices()[:4])
    assert_same_records(here / "run", here / "whole")


@pytest.mark.slow
def test_process_0_writes_to_the_end_when_another_has_failed(here):
    start = time.monotonic()
    ended = rehearse("writing", here / "run", 2, 2)
    assert ended.returncode == 1 and "process 1 of 2 ended with exit code 1" in ended.stderr
    assert (here / "written").read_text().endswith("whole")
    assert time.monotonic() - start > several.WRITES > launch.GRACE
    assert read_result(here / "run").status == "failed"


@pytest.mark.slow
def test_ctrl_c_ends_all_with_130_and_a_checkpoint(here):
    cut = rehearse("interrupted", here / "run", 2, 2)
    assert cut.returncode == 130, cut.stderr
    at = read_result(here / "run")
    assert at.status == "preempted"
    assert Checkpoints(here / "run" / "checkpoints").steps()[-1] == at.steps


def together(*runs):
    """Processes that were started one by one; exit code and stderr of each."""
    started = [
        subprocess.Popen(run, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        for run, env in runs
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("odd", "devices", "words"),
    [
        (("--set", "steps=9"), 2, "process 1: experiment.steps is 9, not 5"),
        ((), 3, "process 0 has 2, process 1 has 3"),
    ],
)
def test_a_start_with_unlike_processes_is_refused_by_all(odd, devices, words, here):
    place = ("--coordinator", f"localhost:{free_port()}", "--process-count", 2, "--process-id")
    flags = "--xla_force_host_platform_device_count={}".format
    told = together(
        (command("base", here / "run", *place, 0), environment(here, XLA_FLAGS=flags(2))),
        (
            command("base", here / "run", *place, 1, *odd),
            environment(here, XLA_FLAGS=flags(devices)),
        ),
    )
    for code, text in told:
        assert code == 2 and words in text and "Traceback" not in text, text
    assert not (here / "run").exists()


@pytest.mark.slow
def test_slurm_tells_each_process_its_place(here):
    job = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    runs = [
        (
            command("base", here / "run"),
            environment(here, **job, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)),
        )
        for i in range(2)
    ]
    assert [code for code, _ in together(*runs)] == [0, 0]
    exp = experiment("base")
    fit(exp, here / "whole")
    assert_same_records(here / "run", here / "whole")


def test_bad_input_is_refused_before_any_process_starts(here, jaxdl):
    def refused(*argv):
        told = jaxdl("train", SEVERAL, "--run-dir", here / "run", *argv)
        assert told.code == 2 and not (here / "run").exists()
        return told.words

    assert "steps=0" in refused("--processes", 2, "--set", "steps=0")
    assert "processes=0 must be at least 1" in refused("--processes", 0)
    assert "leave the other options out" in refused("--processes", 2, "--process-id", 0)
    assert "give all three" in refused("--process-count", 2)
    assert "must be HOST:PORT" in refused(
        *("--coordinator", "here", "--process-count", 2, "--process-id", 0)
    )
