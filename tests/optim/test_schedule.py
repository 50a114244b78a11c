import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.optim import Constant, Cosine, InverseSqrt, Linear, Steps

PEAK, STEPS = 0.4, 50


def rates(config, peak=PEAK, steps=STEPS):
    return jax.jit(jax.vmap(config.build(peak, steps)))(jnp.arange(steps))


def closed_form(kind, warmup, end, steps=STEPS):
    i = np.arange(steps, dtype=np.float64)
    done = (i - warmup) / (steps - warmup)
    after = {
        Constant: PEAK + 0 * i,
        Cosine: PEAK * (end + (1 - end) * (1 + np.cos(np.pi * done)) / 2),
        Linear: PEAK * (1 - (1 - end) * done),
    }[kind]
    return np.where(i < warmup, PEAK * (i + 1) / max(warmup, 1), after)


@pytest.mark.parametrize("kind", [Constant, Cosine, Linear])
@pytest.mark.parametrize("warmup", [0, 1, 10, STEPS - 1])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_every_step_has_its_closed_form(kind, warmup, end):
    config = kind(warmup) if kind is Constant else kind(warmup, end)
    rate = rates(config)
    np.testing.assert_allclose(rate, closed_form(kind, warmup, end), rtol=1e-5, atol=1e-7)
    assert rate[warmup] == pytest.approx(PEAK)


@pytest.mark.parametrize("kind", [Cosine, Linear])
def test_the_end_is_reached_and_kept(kind):
    schedule = kind(warmup=5, end=0.1).build(PEAK, STEPS)
    assert schedule(STEPS) == pytest.approx(0.1 * PEAK)
    assert schedule(10 * STEPS) == pytest.approx(0.1 * PEAK)


@pytest.mark.parametrize("kind", [Constant, Cosine, Linear, Steps, InverseSqrt])
@pytest.mark.parametrize("warmup", [STEPS, STEPS + 1, -1])
def test_a_warmup_that_does_not_fit_suggests_one_that_does(kind, warmup):
    with pytest.raises(InputError, match=f"warmup={warmup} .* {STEPS} updates; try 5"):
        kind(warmup=warmup).build(PEAK, STEPS)
    kind(warmup=5).build(PEAK, STEPS)


def test_one_update_can_be_scheduled():
    with pytest.raises(InputError, match="try 0"):
        Cosine(warmup=1).build(PEAK, 1)
    assert Cosine(warmup=0).build(PEAK, 1)(0) == pytest.approx(PEAK)


@pytest.mark.parametrize("end", [-0.1, 1.5])
def test_an_end_is_a_share_of_the_peak(end):
    with pytest.raises(InputError, match="share of the peak rate"):
        Cosine(end=end).build(PEAK, STEPS)


@pytest.mark.parametrize("warmup", [0, 5])
def test_steps_fall_at_their_shares_of_the_updates(warmup):
    rate = rates(Steps(warmup, factor=0.1, at=(0.5, 0.75)))
    np.testing.assert_allclose(rate[max(warmup - 1, 0) : 25], PEAK, rtol=1e-6)
    np.testing.assert_allclose(rate[25:38], 0.1 * PEAK, rtol=1e-6)  # 0.75 * 50 is 37.5
    np.testing.assert_allclose(rate[38:], 0.01 * PEAK, rtol=1e-6)
    np.testing.assert_allclose(rate[:warmup], PEAK * (np.arange(warmup) + 1) / 5, rtol=1e-6)


@pytest.mark.parametrize("at", [(0.75, 0.5), (0.5, 0.5), (0.1,), (1.0,)])
def test_steps_that_never_come_or_come_before_the_peak_are_refused(at):
    with pytest.raises(InputError, match="rising shares of the 50 updates, between warmup=5"):
        Steps(warmup=5, at=at).build(PEAK, STEPS)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
def test_a_step_goes_down(factor):
    with pytest.raises(InputError, match="factor="):
        Steps(factor=factor).build(PEAK, STEPS)


@pytest.mark.row("O-022")
def test_the_inverse_square_root_is_the_transformer_s():
    width, warmup = 512, 4000
    peak = (width * warmup) ** -0.5
    assert peak == pytest.approx(6.99e-4, rel=1e-3)
    t = np.arange(1, 3 * warmup + 1, dtype=np.float64)
    expected = width**-0.5 * np.minimum(t**-0.5, t * warmup**-1.5)
    rate = rates(InverseSqrt(warmup), peak, 3 * warmup)
    np.testing.assert_allclose(rate, expected, rtol=1e-5, atol=1e-6 * peak)
    assert rate[warmup - 1] == pytest.approx(6.99e-4, rel=1e-3)


def test_without_warmup_the_inverse_square_root_starts_at_the_peak():
    expected = PEAK / np.sqrt(np.arange(STEPS) + 1)
    np.testing.assert_allclose(rates(InverseSqrt(0)), expected, rtol=1e-6)
