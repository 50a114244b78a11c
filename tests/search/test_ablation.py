"""Whatever becomes of the children, an ablation goes on, and says what became of them."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxdl.search import Ablation, Cell, Plan, Pool
from jaxdl.search.ablation import STUDY

# Of this test's process, in which jax may have started its threads; no ablation has.
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")

DONE = """
import json, os, sys
os.makedirs(sys.argv[1], exist_ok=True)
told = {"schema": 1, "status": "done", "steps": 10, "seconds": 0.01, "primary": "valid/accuracy",
        "metrics": {"valid": {"accuracy": 0.75}}}
json.dump(told, open(sys.argv[1] + "/result.json", "w"))
"""
REFUSED = "import sys; print('jaxdl: width=7 is odd; try 8.'); sys.exit(2)"
KILLED = "import os; os.kill(os.getpid(), 9)"
KILLED_ONCE = f"""
import os, sys
if not os.path.exists(sys.argv[1] + ".seen"):
    open(sys.argv[1] + ".seen", "w").close()
    os.kill(os.getpid(), 9)
{DONE}
"""
SAVING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def study(tmp_path):
    """An ablation whose children run given programs, by variant."""

    def make(seeds=1, jobs=1, **programs):
        cells = tuple(
            Cell(name, seed, tmp_path / f"{name}-{seed}", 10, "valid/accuracy")
            for seed in range(seeds)
            for name in programs
        )
        edits = {name: {} for name in programs}
        folder = tmp_path / "study"
        plan = Plan("exp.py", (), edits, range(seeds), "valid/accuracy", folder, cells)
        ablation = Ablation(plan, None, Pool(jobs))
        ablation.started = []

        def start(cell: Cell, slot: int) -> subprocess.Popen:
            ablation.started.append((cell.name, slot))
            plan.log(cell).parent.mkdir(parents=True, exist_ok=True)
            with plan.log(cell).open("a") as log:
                command = [sys.executable, "-S", "-c", programs[cell.variant], str(cell.run)]
                return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

        ablation.start = start
        return ablation

    return make


def when_ready(ablation, act):
    """Calls `act` once, when all running children have said that they are ready."""
    done = []

    def watch(cell):
        logs = [ablation.plan.log(running) for running in ablation.running.values()]
        ready = logs and all(log.exists() and "ready" in log.read_text() for log in logs)
        if not done and ready:
            done.append(True)
            act()

    return watch


def test_each_runs_once_and_a_failure_is_kept(study):
    ablation = study(2, base=DONE, odd=REFUSED, last=DONE)
    told = []
    ablation.run(lambda cell: told.append(cell and cell.name))
    order = [f"{name} seed {seed}" for seed in (0, 1) for name in ("base", "odd", "last")]
    assert [name for name, _ in ablation.started] == order  # bad input is not tried again
    assert [name for name in told if name] == order
    assert [cell.state for cell in ablation.plan.cells[:3]] == ["done", "failed", "done"]
    assert ablation.plan.cells[0].value == 0.75
    assert ablation.plan.cells[1].error == "exit code 2: width=7 is odd; try 8."
    kept = json.loads((ablation.plan.folder / STUDY).read_text())["cells"]
    assert [cell["state"] for cell in kept] == ["done", "failed", "done"] * 2
    assert kept[1]["words"] == ["jaxdl: width=7 is odd; try 8."]
    assert kept[1]["value"] is None


def test_a_run_that_a_signal_ends_is_tried_once_more(study):
    ablation = study(base=KILLED_ONCE, dead=KILLED)
    ablation.run()
    assert [name for name, _ in ablation.started] == ["base seed 0"] * 2 + ["dead seed 0"] * 2
    assert [cell.state for cell in ablation.plan.cells] == ["done", "failed"]
    assert ablation.plan.cells[1].error == "killed by SIGKILL"


def test_two_at_a_time_have_a_slot_each(study):
    ablation = study(2, jobs=2, base=DONE, other=DONE)
    most = []
    ablation.run(lambda cell: most.append(len(ablation.running)))
    assert max(most) == 2
    assert {slot for _, slot in ablation.started} == {0, 1}
    assert len(ablation.plan.of("done")) == 4


def test_the_budget_keeps_out_what_would_not_fit(study):
    ablation = study(2, base=DONE, other=DONE)
    ablation.plan.cells[0].state, ablation.plan.cells[0].seconds = "done", 50.0
    ablation.budget = 10.0
    ablation.run()
    assert ablation.spent
    assert not ablation.started
    assert ablation.left == pytest.approx(3 * (50 + ablation.overhead))
    ablation = study(1, base=DONE.replace("0.01", "50"), other=DONE)
    ablation.budget = 30.0
    ablation.run()  # nobody knows yet how long one takes
    assert len(ablation.started) == 1


def test_sigterm_is_passed_on_and_the_cell_waits_for_the_next_time(study):
    ablation = study(jobs=2, base=SAVING, other=SAVING, last=DONE)
    start = time.monotonic()
    with ablation.pool.stopping():
        ablation.run(when_ready(ablation, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert time.monotonic() - start < 30
    assert ablation.pool.received == signal.SIGTERM
    assert [cell.state for cell in ablation.plan.cells] == ["waiting"] * 3
    assert len(ablation.started) == 2


def test_asked_twice_it_kills(study):
    ablation = study(base=STUBBORN)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    with ablation.pool.stopping():
        ablation.run(when_ready(ablation, twice))
    assert ablation.pool.received == signal.SIGINT
    assert ablation.plan.cells[0].state == "waiting"


def test_when_it_fails_itself_no_child_is_left(study):
    ablation = study(base=STUBBORN)
    children = []

    def fail():
        children.extend(ablation.pool._children.values())
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), ablation.pool.stopping():
        ablation.run(when_ready(ablation, fail))
    assert children[0].returncode == -signal.SIGKILL


def test_a_run_in_which_another_process_trains_is_waited_for(study, tmp_path):
    ablation = study(base=DONE, other=DONE)
    run = ablation.plan.cells[0].run
    run.mkdir()
    lock = os.open(run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    looks = []

    def watch(cell):
        looks.append(cell)
        if len(ablation.plan.of("done")) == 1 and len(looks) > 5 and not ablation.running:
            fcntl.flock(lock, fcntl.LOCK_UN)

    ablation.run(watch)
    os.close(lock)
    assert [name for name, _ in ablation.started] == ["other seed 0", "base seed 0"]


def test_the_budget_bounds_the_wait_for_a_run_of_another_process(study):
    ablation = study(base=DONE)
    cell = ablation.plan.cells[0]
    cell.run.mkdir()
    lock = os.open(cell.run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ablation.budget, end = 0.3, time.monotonic() + 10

    def watch(cell):
        assert time.monotonic() < end, "it waits for ever"

    ablation.run(watch)
    os.close(lock)
    assert ablation.spent and cell.state == "waiting" and not ablation.started


def test_progress_is_read_from_the_end_of_a_file_being_written(tmp_path):
    cell = Cell("base", 0, tmp_path, 10_000, "valid/accuracy")
    assert cell.progress()[0] == 0
    records = [
        {"step": n, "split": "train", "time": 0.0, "values": {"loss": 1.0}} for n in range(999)
    ]
    records.append({"step": 999, "split": "valid", "time": 0.0, "values": {"accuracy": 0.5}})
    records.append({"step": 1000, "split": "valid", "time": 0.0, "values": {"accuracy": None}})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    Path(tmp_path / "metrics.jsonl").write_text(lines + '{"step": 1001, "spl')
    assert cell.progress() == (1000, 0.5)
    assert math.isnan(Cell("base", 0, tmp_path, 1, "test/accuracy").progress()[1])
