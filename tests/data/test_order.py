"""The order of examples: a bijection per epoch, evenly mixed, frozen."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdl.core.errors import InputError
from jaxdl.data import permute, sequential, shuffled


def orders(n, epochs, seed=0):
    """[epochs, n] source indices of that many epochs."""
    return shuffled(n)(seed, np.arange(epochs * n)).reshape(epochs, n)


def is_bijection(x):
    return np.array_equal(np.sort(x), np.arange(len(x)))


@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 1000, 1024, 1025, 4097, 100_003])
def test_every_epoch_visits_every_example_once(n):
    assert all(is_bijection(order) for order in orders(n, 3))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_it_is_a_bijection_for_any_n_seed_and_epoch(n, seed, epoch):
    assert is_bijection(permute(seed, np.int64(epoch), np.arange(n), n))


@settings(deadline=None, max_examples=30)
@given(st.integers(2**20, 2**50), st.integers(0, 2**32 - 1))
def test_huge_n_needs_no_table(n, seed):
    i = np.unique(np.random.default_rng(0).integers(0, n, 1000))
    out = permute(seed, np.int64(0), i, n)
    assert out.dtype == np.int64 and len(np.unique(out)) == len(i)
    assert 0 <= out.min() and out.max() < n


def test_position_and_order_of_asking_do_not_matter():
    plan = shuffled(1000)
    e = np.arange(500, 2500)
    mixed = np.random.default_rng(0).permutation(len(e))
    assert np.array_equal(plan(7, e)[mixed], plan(7, e[mixed]))
    assert np.array_equal(plan(7, e), np.concatenate([plan(7, e[:700]), plan(7, e[700:])]))


def test_seeds_and_epochs_differ():
    a, b = orders(1000, 2)
    (c,) = orders(1000, 1, seed=1)
    for x, y in ((a, b), (a, c), (b, c)):
        assert (x == y).sum() < 10  # one is expected of two unrelated orders
    assert np.array_equal(orders(1000, 2)[1], b)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_tiny_orders_are_equally_likely(n):
    epochs = 100 * math.factorial(n)
    codes = orders(n, epochs) @ n ** np.arange(n)
    seen = np.unique(codes, return_counts=True)[1]
    assert len(seen) == math.factorial(n)
    chi_square = ((seen - 100) ** 2 / 100).sum()
    free = math.factorial(n) - 1
    assert chi_square < free + 5 * math.sqrt(2 * free)


@pytest.mark.parametrize("n", [10, 16, 17, 32, 33, 100])
def test_pairs_of_neighbours_are_equally_likely(n):
    epochs = 20_000
    p = orders(n, epochs)
    counts = np.bincount(p[:, 0] * n + p[:, 1], minlength=n * n).reshape(n, n)
    assert not counts.diagonal().any()
    cells = n * (n - 1)
    chi_square = ((counts - epochs / cells) ** 2 / (epochs / cells)).sum() - n * epochs / cells
    assert abs(chi_square - cells + 1) < 5 * math.sqrt(2 * cells)


def test_the_order_is_frozen():
    """Resumed runs rely on it: a change here changes the data of every checkpoint."""
    assert shuffled(10)(0, np.arange(10)).tolist() == [4, 8, 7, 5, 0, 6, 2, 3, 9, 1]
    late = shuffled(1000)(3, np.arange(5000, 5006))
    assert late.tolist() == [898, 294, 483, 206, 364, 475]


def test_sequential_keeps_the_order():
    assert sequential(3)(0, np.arange(7)).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_nothing_to_order_is_refused():
    with pytest.raises(InputError, match="n=0"):
        permute(0, np.int64(0), np.arange(0), 0)
