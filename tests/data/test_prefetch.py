"""Prefetching: the same batches, sooner; bounded; errors reach the caller."""

import threading
import time

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.data import prefetch


@pytest.fixture
def opened():
    """`prefetch`, closed after the test."""
    made = []

    def make(*args, **kw):
        made.append(prefetch(*args, **kw))
        return made[-1]

    yield make
    for one in made:
        one.close()


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def test_any_order_of_asking_gets_what_was_asked(opened):
    get = opened(lambda n: n * n, depth=3)
    asked = [0, 1, 2, 3, 3, 2, 50, 51, 0, 1, 52]
    assert [get(n) for n in asked] == [n * n for n in asked]


@pytest.mark.row("X-067")
def test_it_runs_ahead_by_depth_and_no_further(opened):
    made = []
    get = opened(lambda n: made.append(n) or n, depth=2)
    time.sleep(0.02)
    assert made == []  # nothing is known of where the run starts
    get(10)
    assert wait_until(lambda: len(made) == 3)
    time.sleep(0.05)
    assert made == [10, 11, 12]


def test_a_jump_drops_what_is_stale_even_while_it_is_being_made(opened):
    started, go = threading.Event(), threading.Event()

    def slow(n):
        if n == 1:
            started.set()
            assert go.wait(5)
        return n

    get = opened(slow)
    assert get(0) == 0
    assert started.wait(5)
    threading.Timer(0.02, go.set).start()
    assert [get(7), get(8), get(1)] == [7, 8, 1]


@pytest.mark.row("X-033")
def test_an_error_reaches_the_call_that_asks_for_its_batch(opened):
    broken = {3}

    def fails(n):
        if n in broken:
            raise InputError(f"row {n} is torn")
        return n

    get = opened(fails, depth=4)
    assert [get(0), get(1), get(2)] == [0, 1, 2]
    with pytest.raises(InputError, match="row 3 is torn") as error:
        get(3)
    assert error.value.__notes__ == ["while preparing batch 3"]
    assert get(4) == 4
    broken.clear()
    assert get(3) == 3


def test_running_past_the_end_hurts_only_who_asks(opened):
    get = opened([10, 11].__getitem__)
    assert [get(0), get(1)] == [10, 11]
    with pytest.raises(IndexError):
        get(2)


def test_closing_ends_the_thread_and_refuses_further_batches():
    before = threading.active_count()
    get = prefetch(lambda n: n)
    assert get(0) == 0
    get.close()
    get.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match=r"batch 1 .* closed"):
        get(1)


def test_the_next_batch_is_made_while_this_one_is_used(opened):
    started = [threading.Event() for _ in range(12)]

    def load(n):
        started[n].set()
        return n

    get = opened(load)
    for n in range(10):
        get(n)
        assert started[n + 1].wait(5), "nothing was prepared during the step"


def test_an_unreasonable_depth_is_refused_with_its_weight():
    with pytest.raises(InputError, match=r"depth=1000 would keep 4 GB .*\(4 MB each\)"):
        prefetch(lambda n: {"x": np.zeros(10**6, np.float32)}, depth=1000)
    with pytest.raises(InputError, match="depth=0"):
        prefetch(lambda n: n, depth=0)
