from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxdl.metrics import Frechet, compute, merge

RNG = np.random.default_rng(1)
REAL = RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5)) + 1
FAKE = RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5))


def oracle(real, fake):
    c1, c2 = np.cov(real.T, bias=True), np.cov(fake.T, bias=True)
    distance = np.sum((real.mean(0) - fake.mean(0)) ** 2)
    return distance + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)


def state(rows, real=REAL, fake=FAKE, mask=None):
    mask = np.ones(len(real[rows])) if mask is None else mask
    return Frechet.from_model_output(*(jnp.array(x) for x in (real[rows], fake[rows], mask)))


def distance(*states):
    return compute(merge({"frechet": s} for s in states))["frechet"]


@pytest.mark.parametrize("cuts", [[], [30], [1, 2, 50], [20, 40]])
def test_any_split_gives_scipy_s_distance(cuts):
    bounds = [0, *cuts, 60]
    rows = [slice(a, b) for a, b in pairwise(bounds)]
    assert distance(*map(state, rows)) == pytest.approx(oracle(REAL, FAKE), rel=1e-4)


def test_masked_rows_do_not_count():
    mask = (np.arange(60) < 45).astype(np.float32)
    wild = np.where(mask[:, None] > 0, REAL, np.nan)
    found = state(slice(None), real=wild, fake=np.where(mask[:, None] > 0, FAKE, np.inf), mask=mask)
    assert found.weight == 45
    assert distance(found) == pytest.approx(oracle(REAL[:45], FAKE[:45]), rel=1e-4)


def test_the_same_set_is_at_distance_zero():
    assert distance(state(slice(None), fake=REAL[::-1])) == pytest.approx(0, abs=1e-3)


def test_a_shift_is_its_square():
    moved = REAL + np.array([3, 0, 0, 4, 0])
    assert distance(state(slice(None), fake=moved)) == pytest.approx(25, rel=1e-4)


def test_fewer_examples_than_dimensions_have_a_distance():
    """Covariances are then singular, and their roots need care."""
    found = distance(state(slice(0, 4)))
    assert found == pytest.approx(oracle(REAL[:4], FAKE[:4]), rel=1e-3)


def test_one_example_has_no_spread():
    assert np.isnan(distance(state(slice(0, 1))))
