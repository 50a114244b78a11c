from fractions import Fraction

import pytest

from jaxdl.core.timing import measure

PLANTED = Fraction(50, 1000)


@pytest.mark.row("C-044")
def test_a_planted_50_ms_is_measured_exactly():
    """Work is dispatched at once and takes its time when waited for, as on a device."""
    now, calls, waited = Fraction(0), 0, []

    def fn():
        nonlocal calls
        calls += 1
        return calls

    def wait(result):
        nonlocal now
        waited.append(result)
        now += 3 if result <= 2 else PLANTED

    seconds = measure(fn, repeats=5, warmup=2, clock=lambda: now, wait=wait)
    assert seconds == [PLANTED] * 5
    assert waited == [1, 2, 3, 4, 5, 6, 7]


def test_each_call_is_timed_on_its_own():
    now, steps = 0, iter([100, 1, 2, 3])

    def fn():
        nonlocal now
        now += next(steps)

    assert measure(fn, repeats=3, warmup=1, clock=lambda: now, wait=lambda x: x) == [1, 2, 3]
