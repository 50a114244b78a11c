"""`jaxdl ablate` as a shell sees it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jaxdl.cli import ablate, shares
from jaxdl.cli.start import CACHE
from jaxdl.cli.studying import Watcher, duration, seconds_of
from jaxdl.core import InputError
from jaxdl.core.records import read_passport, read_records, read_result
from jaxdl.search import Ablation, Cell, Pool, make_plan

# Of this test's process, in which jax may have started its threads; no command has.
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
VARIANTS = """
ABLATIONS = {
    "slow": {"optim.peak_lr": 1e-4},
    "null": {},
    "broken": {"model.classes": 5},
}
"""


@pytest.fixture
def study(place):
    """An experiment with a variant that changes nothing and one that fails."""
    source = (place / "exp.py").read_text().partition("TEXT = ")[0]
    (place / "exp.py").write_text(source + VARIANTS)
    return place


def rows(told: str) -> dict[str, dict]:
    return {line["variant"]: line for line in map(json.loads, told.splitlines())}


def numbers(run: Path) -> list:
    """What a run recorded, times and rates aside."""
    return [(r.step, r.split, r.values) for r in read_records(run) if r.split != "perf"]


@pytest.mark.row("R-001", "R-002")
def test_runs_made_by_hand_count_and_no_finished_run_is_repeated(jaxdl, study):
    assert jaxdl("train", "exp.py").code == 0
    (by_hand,) = Path("runs/exp").glob("base-*")
    before = (by_hand / "result.json").stat().st_mtime_ns
    told = jaxdl("ablate", "exp.py", "--seeds", "1", "--only", "null", "--json")
    assert told.code == 0, told.err
    assert "2 runs of exp.py: 1 finished, 1 to do, about" in told.err
    assert (by_hand / "result.json").stat().st_mtime_ns == before
    (null,) = Path("runs/exp").glob("null-*")
    assert numbers(null) == numbers(by_hand)  # to the bit, through a child and its cache
    found = rows(told.out)
    assert set(found) == {"base", "null"}
    assert found["null"]["difference"] == 0
    (folder,) = Path("runs/exp/ablation").iterdir()
    assert Path(found["null"]["report"]) == folder / "report.html"
    assert "null" in (folder / "report.md").read_text()
    assert "exp.py:null --set seed=0" in read_passport(null).command
    again = jaxdl("ablate", "exp.py", "--seeds", "1", "--only", "null", "--json")
    assert "2 finished, nothing to do" in again.err
    assert again.out == told.out


def test_a_plan_is_shown_and_nothing_is_touched(jaxdl, study):
    told = jaxdl("ablate", "exp.py", "--dry-run", "--seeds", "2", "--only", "slow,null")
    assert told.code == 0
    assert "6 runs of exp.py: 6 to do, time is known after the first" in told.out
    assert [line.split()[0] for line in told.out.splitlines()[1:4]] == ["base", "slow", "null"]
    lines = jaxdl("ablate", "exp.py", "--dry-run", "--seeds", "2", "--json").out.splitlines()
    assert len(lines) == 8
    assert json.loads(lines[0])["estimate"] is None
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "nul"], "did you mean 'null'"),
        (["--budget", "2 hours"], "write it like 90s, 30m, 1h30m or 2d"),
        (["--jobs", "0"], "jobs=0 must be at least 1"),
        (["--jobs", "999"], "needs a core for each run"),
        (["--set", "optim.peak_lr=1"], "would undo the optim.peak_lr of variant 'slow'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, says, jaxdl, study):
    told = jaxdl("ablate", "exp.py", *arguments)
    assert told.code == 2
    assert says in told.words
    assert not Path("runs").exists()


def test_times_are_read_and_told():
    assert seconds_of("90s") == 90
    assert seconds_of("1h30m") == 5400
    assert seconds_of("1.5d") == 129600
    for text in ("", "2", "h", "2h!", "30m 5"):
        with pytest.raises(InputError):
            seconds_of(text)
    assert [duration(s) for s in (4.4, 100, 7500)] == ["4 s", "2 min", "2 h 05 min"]


def test_jobs_divide_cores_or_gpus(monkeypatch):
    monkeypatch.setattr(shares, "_devices", lambda: ("cpu", 1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5}, raising=False)
    assert shares.shares_of(1) == [({}, ())]
    assert shares.shares_of(2) == [({}, (0, 4)), ({}, (1, 5))]
    assert shares.shares_of(3) == [({}, (0,)), ({}, (1,)), ({}, (4,))]  # nobody has more
    monkeypatch.setattr(shares, "_devices", lambda: ("gpu", 4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in shares.shares_of(2)] == ["3,6", "5,7"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in shares.shares_of(4)] == ["0", "1", "2", "3"]
    with pytest.raises(InputError, match="here are 4; use --jobs 4"):
        shares.shares_of(5)
    monkeypatch.setattr(shares, "_devices", lambda: ("tpu", 4))
    with pytest.raises(InputError, match="a tpu serves one process at a time"):
        shares.shares_of(2)


def test_runs_share_a_cache_that_a_killed_one_leaves_empty(study, monkeypatch):
    asked = []
    monkeypatch.setattr(ablate, "start", lambda *a, **kw: asked.append(kw))
    for name in CACHE:
        monkeypatch.delenv(name, raising=False)
    plan = make_plan("exp.py", seeds=1)
    begin = ablate._starter(plan, [({}, ())])
    cache = plan.folder / "compiled"
    cache.mkdir(parents=True)
    (cache / "half").write_text("")
    begin(plan.cells[0], 0)
    assert asked[0]["env"]["JAX_COMPILATION_CACHE_DIR"] == str(cache.absolute())
    assert list(cache.iterdir())
    plan.cells[0].tries = 2
    begin(plan.cells[0], 0)
    assert not list(cache.iterdir())
    (cache / "half").write_text("")
    (plan.folder / "ablation.json").write_text('{"cells": [{"state": "running"}]}')
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    ablate._starter(plan, [({}, ())])(plan.cells[1], 0)
    assert not list(cache.iterdir())
    assert "JAX_COMPILATION_CACHE_DIR" not in asked[-1]["env"]


def test_one_ablation_at_a_time_and_other_locks_are_told_as_they_are(tmp_path):
    with ablate._alone(tmp_path):
        with pytest.raises(InputError, match="another `jaxdl ablate`"), ablate._alone(tmp_path):
            pass
    with pytest.raises(BlockingIOError, match="of its own"), ablate._alone(tmp_path):
        raise BlockingIOError("of its own")


def test_json_tells_of_every_variant_where_no_run_has_finished(study, capsys):
    ablate._report(make_plan("exp.py", seeds=2), json=True)
    found = rows(capsys.readouterr().out)
    assert set(found) == {"base", "slow", "null", "broken"}
    assert {(line["seeds"], line["failed"]) for line in found.values()} == {(0, 2)}
    assert Path(found["slow"]["report"]).exists()


def test_a_wait_for_another_process_is_told_once_off_a_terminal(study, capsys):
    watch = Watcher(Ablation(make_plan("exp.py", seeds=1), None, Pool(1)))
    watch(None)
    watch(None)
    assert capsys.readouterr().err.count("waiting for another process") == 1


def begin(*more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxdl", "ablate", "exp.py", *more]
    with Path("told").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def gone(pid: int, within: float) -> bool:
    end = time.monotonic() + within
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
@pytest.mark.multihost
@pytest.mark.row("R-001", "R-002")
def test_killed_at_ten_random_points_the_report_is_the_same(jaxdl, study):
    """SIGKILL of the ablation; every other time of its children as well."""
    ask = ["--seeds", "1", "--set", "steps=200", "--set", "hooks.2.every=20"]
    whole = jaxdl("ablate", "exp.py", *ask, "--run-dir", "whole", "--json")
    assert whole.code == 1, whole.err
    dice, finished = random.Random(0), {}
    for kill in range(10):
        ablation = begin(*ask, "--run-dir", "killed")
        children = killing_time(ablation, dice.uniform(0, 90), dice.uniform(0, 1))
        ablation.kill()
        ablation.wait()
        for child in children:
            if kill % 2:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            assert gone(child, within=60)
        for run in Path("killed").glob("*-*"):
            if (result := read_result(run)) and result.finished:
                stamp = (run / "result.json").stat().st_mtime_ns, len(read_passport(run).sittings)
                assert finished.setdefault(run, stamp) == stamp
    told = jaxdl("ablate", "exp.py", *ask, "--run-dir", "killed", "--json")
    assert told.code == 1, Path("told").read_text() + told.err
    assert finished
    for run, stamp in finished.items():
        assert (run / "result.json").stat().st_mtime_ns == stamp[0]
    assert told.out.replace("killed", "whole") == whole.out
    for run in Path("whole").glob("*-*"):
        assert numbers(Path("killed") / run.name) == numbers(run)
    for place in ("killed", "whole"):
        level_costs(place)
        assert jaxdl("ablate", "exp.py", *ask, "--run-dir", place).code == 1
    for page in ("report.md", "report.html"):
        killed, whole = (Path(place, page).read_text() for place in ("killed", "whole"))
        assert killed.replace("killed", "") == whole.replace("whole", "")


def killing_time(ablation: subprocess.Popen, steps: float, seconds: float) -> list[int]:
    """Waits until the runs are so much further, and a little; the children there are by then."""
    before, end = steps_of("killed"), time.monotonic() + 400
    while steps_of("killed") - before < steps and ablation.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(seconds)
    return children_of(ablation.pid)


def steps_of(place: str) -> int:
    """Steps that all runs together have recorded."""
    runs = Path(place).glob("*-*")
    return sum(Cell("", 0, run, 1, "valid/accuracy").progress()[0] for run in runs)


def level_costs(place: str) -> None:
    """Gives all runs the same seconds and memory, which no two runs ever have."""
    for file in Path(place).glob("*-*/result.json"):
        told = json.loads(file.read_text()) | {"seconds": 1.0, "memory_mb": 100.0}
        file.write_text(json.dumps(told))


@pytest.mark.slow
@pytest.mark.multihost
def test_sigterm_ends_with_75_and_the_same_command_goes_on(study):
    ask = ["--seeds", "1", "--only", "null", "--set", "steps=20000", "--budget", "1h"]
    ablation, end = begin(*ask), time.monotonic() + 120
    logs = Path("runs/exp")
    while not list(logs.glob("base-*/metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2)
    (child,) = children_of(ablation.pid)
    ablation.send_signal(signal.SIGTERM)
    assert ablation.wait(timeout=120) == 75
    assert gone(child, within=1)
    (run,) = logs.glob("base-*")
    assert read_result(run).status == "preempted"
    assert "The same command goes on" in Path("told").read_text()
    assert not list(logs.glob("null-*"))


@pytest.mark.slow
@pytest.mark.row("R-023")
def test_architectures_are_compared_in_quality_and_cost(jaxdl, study):
    """One command, equal budgets: accuracy, parameters, FLOPs, time, memory, and the curves."""
    source = (study / "exp.py").read_text().partition("ABLATIONS")[0]
    models = """ABLATIONS = {
    "deep": {"model": MLP(widths=(16, 16), classes=10)},
    "resnet": {"model": ResNet(stages=(1,), width=8, classes=10)},
}
"""
    head = "from jaxdl.models.resnet import ResNet\n"
    (study / "exp.py").write_text(head + source + models)
    told = jaxdl("ablate", "exp.py", "--seeds", "1", "--json", "--run-dir", "there")
    assert told.code == 0, told.err
    assert set(rows(told.out)) == {"base", "deep", "resnet"}
    page, runs = Path("there/report.md").read_text(), list(Path("there").glob("*-*"))
    assert {read_result(run).steps for run in runs} == {20}
    for head in ("test/accuracy", "parameters", "training FLOPs", "training time", "peak memory"):
        assert head in page
    for run in runs:
        passport = read_passport(run)
        assert passport.flops > passport.parameters > 0
        row = next(line for line in page.splitlines() if f"| {run.name.split('-')[0]} | " in line)
        assert row
    assert Path("there/report.html").read_text().count("<svg") >= 2
    assert all((run / "curves.png").stat().st_size > 1000 for run in runs)
