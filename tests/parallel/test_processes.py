"""Processes that cannot come together say which one and why, each with the same words."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxdl.core.errors import InputError
from jaxdl.parallel import Member, decided, fetched, gathered
from jaxdl.parallel.processes import find
from jaxdl.parallel.rendezvous import meet

FACTS = {"experiment": {"seed": 0, "model": {"widths": [16, 8]}}, "version": {"jax": "0.10.2"}}


@pytest.fixture
def coordinator():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"localhost:{port}"


def told(members, facts=None, seconds=1.0):
    """What each of these processes, started together, is refused with; None where it may go on."""

    def start(i):
        try:
            meet(members[i], (facts or {}).get(i, FACTS), seconds)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(start, range(len(members))))


def test_processes_that_are_alike_meet(coordinator):
    assert told([Member(coordinator, i, 4) for i in range(4)], seconds=20) == [None] * 4


def test_process_0_may_come_last(coordinator):
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(meet, Member(coordinator, 1, 2), FACTS, 20)
        time.sleep(0.3)
        meet(Member(coordinator, 0, 2), FACTS, 20)
        early.result(timeout=20)


@pytest.mark.parametrize(
    ("came", "words"), [((0, 1, 3), "process 2 of 4 has"), ((0, 1), "processes 2, 3 of 4 have")]
)
def test_a_missing_process_is_named_by_all_that_came(came, words, coordinator):
    start = time.monotonic()
    said = told([Member(coordinator, i, 4) for i in came], seconds=0.7)
    assert set(said) == {
        f"{words} not come to {coordinator} within 0.7 s; start every process with the same "
        "coordinator."
    }
    assert time.monotonic() - start >= 0.7


def test_two_processes_of_one_number(coordinator):
    said = told([Member(coordinator, i, 3) for i in (0, 1, 1)], seconds=20)
    assert "two processes say that they are process 1" in said[0]
    assert said[0] in said[1:]


def test_another_number_of_processes(coordinator):
    said = told([Member(coordinator, 0, 2), Member(coordinator, 1, 3)], seconds=20)
    assert said == ["process 1 was started as one of 3 processes, process 0 of 2."] * 2


def test_every_process_that_differs_is_named_with_what_differs(coordinator):
    other = {"experiment": {"seed": 1, "model": {"widths": [16]}}, "version": {"jax": "0.10.2"}}
    newer = FACTS | {"version": {"jax": "0.11.0"}}
    said = told([Member(coordinator, i, 4) for i in range(4)], {1: other, 3: newer}, seconds=20)
    assert set(said) == {
        "not all processes were started alike. Against process 0: "
        "process 1: experiment.seed is 1, not 0; experiment.model.widths.1 is None, not 8. "
        "process 3: version.jax is '0.11.0', not '0.10.2'."
    }


def test_nobody_answers(coordinator):
    (said,) = told([Member(coordinator, 1, 2)], seconds=0.3)
    assert f"process 1 of 2: nobody answers at {coordinator} within 0.3 s" in said


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b'{"status": "ok"}\n', b"[1]\n"])
def test_something_else_answers(answer, coordinator):
    with socket.create_server(("127.0.0.1", int(coordinator.split(":")[1]))) as server:

        def serve():
            line, _ = server.accept()
            line.sendall(answer)
            line.recv(1)
            line.close()

        thread = threading.Thread(target=serve)
        thread.start()
        (said,) = told([Member(coordinator, 1, 2)], seconds=5)
        thread.join()
    assert said.endswith("is not process 0 of a run; is the port right?")


def test_the_port_is_taken(coordinator):
    with socket.create_server(("", int(coordinator.split(":")[1]))):
        (said,) = told([Member(coordinator, 0, 2)])
    assert "process 0 of 2 cannot listen on port" in said and "Address already in use" in said


def test_strangers_at_the_port_are_not_counted(coordinator):
    port = int(coordinator.split(":")[1])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, Member(coordinator, 0, 2), FACTS, 20)
        for words in (b"GET / HTTP/1.0\n", b"{}\n", b""):
            stranger = _connected(port)
            stranger.sendall(words)
            stranger.close()
        meet(Member(coordinator, 1, 2), FACTS, 20)
        first.result(timeout=20)


def _connected(port):
    while True:
        try:
            return socket.create_connection(("localhost", port))
        except ConnectionRefusedError:
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere", 0, 2), "coordinator='nowhere' must be HOST:PORT"),
        (("host:70000", 0, 2), "must be HOST:PORT"),
        (("host:80", 2, 2), "process 2 of 2: numbers go from 0 to 1"),
        (("host:80", 0, 0), "there cannot be 0 processes"),
        (("host:80", None, 2), "give all three"),
        (("", 0, 2), "give all three"),
    ],
)
def test_a_place_that_cannot_be_is_refused(args, words):
    with pytest.raises(InputError, match=words):
        find(*args)


def test_the_environment_tells_the_place_unless_one_is_told(monkeypatch):
    assert find() is None
    for name, value in {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "node[003-006,009]",
        "SLURM_NTASKS": "5",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    assert find() == Member("node003:61441", 3, 5, (0,))
    assert find(count=1) is None
    assert find("[::1]:80", 0, 2).address == ("::1", 80)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find() is None


def test_a_process_alone_settles_everything_with_itself():
    assert gathered("mine") == ["mine"]
    assert decided(lambda: 3) == 3
    assert fetched({"a": 1}) == {"a": 1}
