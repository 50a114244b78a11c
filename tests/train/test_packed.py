"""Metric states as few arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.records import as_text, from_text
from jaxdl.metrics import Accuracy, Frechet, Last, Mean, compute, merge, reduce
from jaxdl.train import packed as packed_module
from jaxdl.train.packed import Rows, pack


def metrics(i):
    ones = jnp.ones((4, 2)) * i
    return {
        "loss": Mean(total=jnp.float32(i / 3), weight=jnp.float32(i)),
        "accuracy": Accuracy(correct=jnp.int32(i), weight=jnp.int32(2 * i + 1)),
        "lr": Last.of(i),
        "frechet": Frechet.from_model_output(ones, ones + 1, jnp.ones(4)),
    }


def test_packing_keeps_every_value_and_makes_scalars_one_array_per_dtype():
    packed = jax.jit(lambda: pack(metrics(2)))()
    assert len(packed.arrays) == 2 + 2  # float32 and int32 scalars; the sums of `frechet`
    assert set(packed) == set(metrics(2)) and len(packed) == 4
    for name, state in metrics(2).items():
        assert type(packed[name]) is type(state)
        jax.tree.map(np.testing.assert_array_equal, packed[name], state)


def test_abstract_metrics_have_shapes():
    abstract = jax.eval_shape(lambda: pack(metrics(1)))
    assert abstract["accuracy"].correct == jax.ShapeDtypeStruct((), jnp.int32)
    assert abstract["frechet"].second.shape == (2, 2, 2)


@pytest.mark.parametrize("together", [16, 3])
@pytest.mark.parametrize("asked", [(), (2, 5)])
def test_many_updates_reduce_to_what_merging_one_by_one_gives(together, asked, monkeypatch):
    monkeypatch.setattr(packed_module, "TOGETHER", together)
    updates, rows = [metrics(i) for i in range(1, 8)], Rows()
    assert rows.arrays() == [] and rows.states() == {}
    for i, update in enumerate(updates):
        if i in asked:
            assert len(rows.arrays()[0]) == i
        rows.add(pack(update))
    states = Rows(rows.layout, [from_text(as_text(x)) for x in rows.arrays()]).states()
    assert states["loss"].total.shape == (7,) and states["loss"].total.dtype == np.float64
    found = compute({name: reduce(state) for name, state in states.items()})
    assert found == compute(merge(updates))
