import zlib

import jax
import numpy as np
import pytest

from jaxdl.core import rng

# From `jax.random.key_data(fold(root(0), ...))`; a run's random numbers hang on them.
GOLDEN = {
    ("init",): [3020537540, 2946840664],
    (7, "main", 3): [1693854341, 3247907027],
}


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("purposes", GOLDEN, ids=str)
def test_the_constants_never_change(purposes):
    """Nor do they hang on Python's hash seed, which every test process draws anew."""
    assert data(rng.fold(rng.root(0), *purposes)) == GOLDEN[purposes]


def test_names_go_through_crc32_and_numbers_as_they_are():
    key = rng.root(3)
    expected = jax.random.fold_in(jax.random.fold_in(key, 5), zlib.crc32(b"dropout"))
    assert data(rng.fold(key, 5, "dropout")) == data(expected)
    assert data(rng.fold(key, "dropout", 5)) != data(expected)
    assert data(rng.fold(key)) == data(key)


def test_a_traced_step_folds_like_the_number():
    key = rng.root(1)
    traced = jax.jit(lambda step: rng.fold(key, step, "main"))(jax.numpy.int32(9))
    assert data(traced) == data(rng.fold(key, 9, "main"))


def test_roots_differ_by_seed():
    assert len({tuple(data(rng.root(seed))) for seed in range(20)}) == 20
