from types import SimpleNamespace

import pytest

from jaxdl.core.hook import Stop
from jaxdl.train.loop import train


def state(step=0, cursor=0):
    return SimpleNamespace(step=step, cursor=cursor)


def step_fn(now, batch):
    return state(now.step + 1, now.cursor + 1), {"loss": batch}


def batches(cursor):
    return f"batch {cursor}"


class Recorder:
    """A hook that notes what it sees, and may do something at one step."""

    def __init__(self, name, seen, at=0, act=None):
        self.name, self.seen, self.at, self.act = name, seen, at, act

    def __call__(self, step, now, metrics):
        self.seen.append((self.name, step, now.step, metrics["loss"]))
        return self.act(now) if self.act and step == self.at else None


def fail(now):
    raise RuntimeError("disk full")


def stop(reason):
    def act(now):
        raise Stop(reason, code=7)

    return act


@pytest.mark.row("C-010")
def test_hooks_are_called_in_declared_order_with_step_and_metrics():
    seen = []
    hooks = [Recorder("log", seen), Recorder("evaluate", seen), Recorder("save", seen)]
    last, ended = train(step_fn, state(), batches, 2, hooks)
    names = ["log", "evaluate", "save"]
    assert seen == [(name, i, i, f"batch {i - 1}") for i in (1, 2) for name in names]
    assert type(seen[0][1]) is int
    assert (last.step, ended) == (2, None)


@pytest.mark.row("C-010")
def test_an_exception_names_the_hook_and_the_step():
    class Uploader(Recorder):
        pass

    seen = []
    with pytest.raises(RuntimeError, match="disk full") as caught:
        train(step_fn, state(), batches, 9, [Uploader("a", seen, 3, fail), Recorder("b", seen)])
    assert caught.value.__notes__ == ["raised by the hook Uploader after update 3"]
    assert seen[-1][:2] == ("a", 3)


@pytest.mark.row("C-010")
def test_a_stop_lets_the_other_hooks_see_the_update_and_the_first_one_counts():
    seen = []
    hooks = [
        Recorder("a", seen),
        Recorder("b", seen, 2, stop("converged")),
        Recorder("c", seen, 2, stop("late")),
        Recorder("d", seen),
    ]
    last, ended = train(step_fn, state(), batches, 9, hooks)
    assert [name for name, step, *_ in seen if step == 2] == ["a", "b", "c", "d"]
    assert last.step == 2
    assert (str(ended), ended.code) == ("converged", 7)


@pytest.mark.row("C-010")
def test_a_state_that_a_hook_returns_replaces_ours_with_its_step_and_cursor():
    """As a rollback does: back to update 1, and on with data not yet seen."""
    seen = []
    once = iter([state(step=1, cursor=5)])
    hooks = [Recorder("a", seen, 3, lambda now: next(once, None)), Recorder("b", seen)]
    last, _ = train(step_fn, state(), batches, 4, hooks)
    told = [(step, mine, batch) for name, step, mine, batch in seen if name == "b"]
    assert told == [
        (1, 1, "batch 0"),
        (2, 2, "batch 1"),
        (1, 1, "batch 2"),
        (2, 2, "batch 5"),
        (3, 3, "batch 6"),
        (4, 4, "batch 7"),
    ]
    assert (last.step, last.cursor) == (4, 8)


@pytest.mark.parametrize(("begin", "steps", "expected"), [(3, 5, [4, 5]), (5, 5, []), (7, 5, [])])
def test_a_resumed_run_makes_only_the_updates_left(begin, steps, expected):
    seen = []
    last, _ = train(step_fn, state(begin, begin + 10), batches, steps, [Recorder("a", seen)])
    assert [step for _, step, *_ in seen] == expected
    assert [batch for *_, batch in seen] == [f"batch {step + 9}" for step in expected]
    assert last.step == max(begin, steps)
