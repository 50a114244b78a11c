"""A start of real processes that cannot complete ends in time, and names the cause."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxdl.parallel import processes

SCRIPT = Path(__file__).parent / "starting.py"
ROOM = 4.0
"""Seconds beyond the limit that a busy machine may take to end a process, and its last second."""
TOGETHER = "devices, which have not come up together within 5 s"
SLOW = pytest.mark.slow
pytestmark = pytest.mark.multihost


@pytest.fixture
def start():
    """Starts processes of one run, of 2 devices each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"localhost:{server.getsockname()[1]}"
    started = []

    def one(index, count, seconds, trouble="", to=coordinator):
        flags = "--xla_force_host_platform_device_count=2"
        more = {"JAXDL_START_SECONDS": str(seconds), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, SCRIPT, to, str(index), str(count), trouble]
        started.append(subprocess.Popen(command, env=os.environ | more, text=True, **pipes))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def heard(process, word):
    """Waits until the process says so."""
    assert process.stdout.readline().strip() == word, process.stderr.read()


def told(process):
    """Exit code and message."""
    message = process.communicate(timeout=60)[1]
    return process.returncode, message


def test_two_processes_of_one_number_are_named_to_all(start):
    for code, message in map(told, [start(i, 3, 40) for i in (0, 1, 1)]):
        assert code == 2
        assert "two processes say that they are process 1; give each a number of" in message


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_second_of_one_number_is_named_though_the_run_has_begun(index, start):
    run = [start(i, 2, 40) for i in (0, 1)]
    for process in run:
        heard(process, "starting")
        heard(process, "joined")
    code, message = told(start(index, 2, 20))
    assert code == 2 and "have met already" in message
    assert f"two processes say that they are process {index}; give each a number" in message
    for process in run:  # they end together
        process.stdin.close()
    assert [process.wait(timeout=60) for process in run] == [0, 0]


def test_two_that_say_they_are_process_0_are_named(start):
    first = start(0, 2, 30)
    heard(first, "starting")
    for code, message in (told(start(0, 2, 10)), told(first)):
        assert code == 2 and "two processes say that they are process 0" in message


@pytest.mark.parametrize(
    ("troubles", "words"),
    [
        pytest.param(("no place",), "has not told its place within 5 s", id="place"),
        pytest.param(("", None), "process 1 of 2 has not come to", marks=SLOW, id="other"),
        pytest.param((None, ""), "process 1 of 2: nobody answers", marks=SLOW, id="first"),
        pytest.param(("", "no devices"), TOGETHER, marks=SLOW, id="devices"),
        pytest.param(("no devices", ""), TOGETHER, id="devices of the first"),
    ],
)
def test_whatever_is_missing_all_end_within_the_time(troubles, words, start):
    seconds, count = 5, len(troubles)
    come = [start(i, count, seconds, t) for i, t in enumerate(troubles) if t is not None]
    for process in come:
        heard(process, "starting")
    begun = time.monotonic()
    ended = list(map(told, come))
    assert time.monotonic() - begun < seconds + processes.LINGER + ROOM
    assert all(code == 2 for code, _ in ended) and any(words in message for _, message in ended)


def test_a_first_process_on_another_machine_is_told_so(start):
    code, message = told(start(0, 2, 3, to="192.0.2.1:4999"))  # RFC 5737: of no machine
    assert code == 2 and "process 0 runs: 192.0.2.1 is not this machine" in message


def test_a_start_may_take_less_than_a_minute():
    assert processes.SECONDS + processes.LINGER <= 60
