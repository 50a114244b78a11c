"""Turns between processes, and the arithmetic of comparing them."""

import os
import textwrap

import pytest

from jaxdl.bench.turns import Outcome, Peer, Turn, Worker, take_turns

FAKE = """
import os, pathlib

def noting(name, log):
    def run(n):
        print("what a library prints is no answer")
        with open(log, "a") as file:
            file.write(f"{name}{n} ")
        return 0.5
    threads = os.environ.get("OMP_NUM_THREADS")
    return run, {"cores": len(os.sched_getaffinity(0)), "threads": threads}

def refusing():
    raise ValueError("no such layer")

def dying():
    done = []
    def run(n):
        done.append(n)
        if len(done) == 4:
            os._exit(3)
    return run, {}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    (tmp_path / "fake.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "log"
    return lambda name: Peer(name, "fake:noting", {"name": name, "log": str(log)}), log


def outcome(*turns):
    """From pairs of wall and CPU seconds."""
    return Outcome("peer", {}, [Turn(wall, cpu, None, None) for wall, cpu in turns])


def test_peers_take_turns_whose_order_is_reversed_every_other_round(fake):
    peer, log = fake
    found = take_turns([peer("a"), peer("b")], rounds=3, steps=7, one_core=True)
    warm = "a1 a1 b1 b1 ".split()
    assert log.read_text().split() == [*warm, "a7", "b7", "b7", "a7", "a7", "b7"]
    assert [len(found[name].turns) for name in "ab"] == [3, 3]
    assert found["a"].turns[0].loss == 0.5 and found["a"].turns[0].rss > 1
    assert (found["a"].info["cores"], found["a"].info["threads"]) == (1, "1")


def test_all_cores_are_a_peers_by_default(fake):
    peer, _ = fake
    info = take_turns([peer("a")], rounds=1, steps=1)["a"].info
    assert info["cores"] == len(os.sched_getaffinity(0))


def test_a_peer_that_fails_is_told_and_stops_nobody(fake):
    peer, _ = fake
    peers = [Peer("refusing", "fake:refusing"), peer("a"), Peer("dying", "fake:dying")]
    found = take_turns(peers, rounds=3, steps=1)
    assert found["refusing"].error == "ValueError: no such layer"
    assert found["dying"].error == "the process ended with exit code 3"
    assert not found["a"].error and len(found["a"].turns) == 3


def test_a_marginal_turn_leaves_out_what_every_turn_costs():
    class Steady(Worker):
        """3 s a turn and 2 s a step."""

        def __init__(self):
            pass

        def turn(self, steps):
            return Turn(2 + 3 / steps, 1 + 4 / steps, None, None)

    turn = Steady().marginal_turn(10)
    assert (turn.wall, turn.cpu, turn.start) == pytest.approx((2, 1, 5))


def test_ratios_and_excess_are_medians_over_rounds():
    ours, floor = outcome((2, 3), (8, 9), (9, 30)), outcome((1, 1), (2, 3), (9, 10))
    assert ours.median("wall") == 8 and floor.median("cpu") == 3
    assert ours.ratio(floor, "wall") == 2  # of 2, 4, 1; the ratio of medians would be 4
    assert ours.ratio(floor, "cpu") == 3
    assert ours.excess(floor, "wall") == 1 and ours.excess(floor, "cpu") == 6
