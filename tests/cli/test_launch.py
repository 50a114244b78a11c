"""What a launcher does with the other processes when one has failed."""

import sys
import time

import pytest

from jaxdl.cli import launch
from jaxdl.cli.working import Working

STILL = "import time; time.sleep(60)"
COMPUTING = "while True: pass"
WRITING = """
import os, sys, time
end = time.time() + float(sys.argv[2])
with open(sys.argv[1], "w") as file:
    while time.time() < end:
        file.write("x" * 4096)
        file.flush()
        os.fsync(file.fileno())
        time.sleep(0.2)
    file.write("whole")
"""
FAILING = "import sys; print('no more'); sys.exit(3)"
pytestmark = [
    pytest.mark.multihost,
    # Of this test's process, in which jax may have started its threads; no launcher has.
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),
]


@pytest.fixture
def started():
    """Starts programs as the children of a launcher."""
    children = []

    def start(*programs):
        for code, *argv in programs:
            command = [sys.executable, "-c", code, *map(str, argv)]
            children.append(launch.Child(command, len(children), 1))
        return children

    yield start
    for child in children:
        child.close()


@pytest.mark.parametrize(
    ("code", "works"), [(STILL, False), (COMPUTING, True), (WRITING, True)], ids=["no", "cpu", "io"]
)
def test_work_is_told_from_waiting(code, works, started, tmp_path):
    (child,) = started((code, tmp_path / "file", 60))
    time.sleep(1.0)  # Python itself starts
    working = Working(child.process.pid)
    most, end = 0.0, time.monotonic() + 2.5
    while time.monotonic() < end:
        most = max(most, working.still())
        time.sleep(0.05)
    assert (most < 1.5) == works


def test_who_writes_may_end_and_who_waits_is_ended(started, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(launch, "GRACE", 1.0)
    file, start = tmp_path / "file", time.monotonic()
    children = started((WRITING, file, 4), (FAILING,), (STILL,))
    assert launch._end(children) == 3
    assert 4 <= time.monotonic() - start < 20
    assert file.read_text().endswith("whole")
    assert [child.code for child in children] == [0, 3, 137]
    assert "process 1 of 3 ended with exit code 3" in capfd.readouterr().err
    assert children[1].last_words() == "no more\n"


def test_when_all_end_well_nobody_is_ended(started, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.0)
    assert launch._end(started(("import time; time.sleep(1)",), ("pass",))) == 0


def test_who_waits_for_a_preempted_process_is_ended_and_the_code_stays(started, monkeypatch, capfd):
    monkeypatch.setattr(launch, "PATIENCE", 1.0)
    assert launch._end(started(("import sys; sys.exit(75)",), (STILL,), (STILL,))) == 75
    assert capfd.readouterr().err == ""
