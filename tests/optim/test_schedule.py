import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.optim import Constant, Cosine, Linear

PEAK, STEPS = 0.4, 50


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
    rate = jax.jit(jax.vmap(config.build(PEAK, STEPS)))(jnp.arange(STEPS))
    np.testing.assert_allclose(rate, closed_form(kind, warmup, end), rtol=1e-5, atol=1e-7)
    assert rate[warmup] == pytest.approx(PEAK)


@pytest.mark.parametrize("kind", [Cosine, Linear])
def test_the_end_is_reached_and_kept(kind):
    schedule = kind(warmup=5, end=0.1).build(PEAK, STEPS)
    assert schedule(STEPS) == pytest.approx(0.1 * PEAK)
    assert schedule(10 * STEPS) == pytest.approx(0.1 * PEAK)


@pytest.mark.parametrize("kind", [Constant, Cosine, Linear])
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
