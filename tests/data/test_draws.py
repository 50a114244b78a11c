"""Per-example random numbers: the same however the batch is split, and random."""

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.data import Draws

E = np.arange(20_000)


def kinds(draws):
    return (
        draws.uniform("a", (2,)),
        draws.integers("a", -3, 4),
        draws.normal("a", (2, 3)),
        draws.fold("part").uniform("a"),
    )


def test_the_split_of_the_batch_changes_nothing():
    whole = kinds(Draws(5, E[:64]))
    for parts in ([E[:32], E[32:64]], [E[:1], E[1:50], E[50:64]]):
        split = zip(*(kinds(Draws(5, part)) for part in parts), strict=True)
        for one, many in zip(whole, split, strict=True):
            assert np.array_equal(one, np.concatenate(many))


def test_shapes_ranges_and_moments():
    rng = Draws(0, E)
    u, k, z = rng.uniform("u", (2,)), rng.integers("k", -2, 3), rng.normal("z", (3,))
    assert u.shape == (20_000, 2) and u.dtype == np.float64
    assert k.shape == (20_000,) and k.dtype == np.int64
    assert z.shape == (20_000, 3) and z.dtype == np.float64
    assert 0 <= u.min() and u.max() < 1
    np.testing.assert_allclose([u.mean(), u.std()], [0.5, 12**-0.5], atol=0.01)
    np.testing.assert_allclose(np.bincount(k + 2) / len(E), 0.2, atol=0.015)
    np.testing.assert_allclose([z.mean(), z.std(), (z**4).mean()], [0, 1, 3], atol=0.1)


def test_seed_example_purpose_position_and_fold_are_independent():
    rng = Draws(0, E)
    u = rng.uniform("u", (2,))
    columns = [
        u[:, 0],
        u[:, 1],
        np.roll(u[:, 0], 1),
        rng.uniform("v"),
        Draws(1, E).uniform("u"),
        rng.fold(0).uniform("u"),
        rng.fold(1).uniform("u"),
    ]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 0.04


def test_it_is_frozen():
    assert Draws(1, np.array([7])).integers("crop", 0, 10**6).tolist() == [118711]


def test_an_empty_range_is_refused():
    with pytest.raises(InputError, match="empty"):
        Draws(0, E).integers("k", 3, 3)
