"""The loader: batch n is a pure function of (source, seed, n), on any number of processes."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdl.core.errors import InputError
from jaxdl.data import (
    ArraySource,
    Chain,
    Crop,
    Digits,
    Scale,
    abstract,
    batches,
    count,
    local_rows,
    sequential,
    shuffled,
)
from jaxdl.data.loader import load

AUGMENT = Chain((Crop(1), Scale(0, 16)))


class Counting:
    """A source without `take` that records what is read."""

    def __init__(self, n=100):
        self.n, self.read = n, []
        self.spec = {"x": jax.ShapeDtypeStruct((), np.int64)}

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(i)
        return {"x": i}


def mesh(**axes):
    sizes = tuple(axes.values())
    return Mesh(np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes), tuple(axes))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype, name


def test_row_i_of_batch_n_is_example_nb_plus_i():
    get = batches(Counting(), batch=7, seed=3)
    order = shuffled(100)(3, np.arange(140))
    assert np.array_equal(np.concatenate([get(n)["x"] for n in range(20)]), order)
    plain = batches(Counting(), batch=7, seed=3, shuffle=False)
    assert plain(14)["x"].tolist() == [98, 99, 0, 1, 2, 3, 4]
    assert batches(Counting(), batch=2, seed=3, plan=sequential(3))(1)["x"].tolist() == [2, 0]


@pytest.mark.row("D-009")
def test_resuming_reads_one_batch_and_gives_the_same():
    straight = batches(Digits().train(), batch=32, seed=1, transform=AUGMENT)
    seen = [straight(n) for n in range(60)]
    resumed = batches(Digits().train(), batch=32, seed=1, transform=AUGMENT)
    assert_same(resumed(57), seen[57])
    source = Counting()
    batches(source, batch=8, seed=0)(10**12)
    assert len(source.read) == 8


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 4, "model": 2}], ids=str)
def test_processes_load_their_rows_of_the_same_batch(processes, axes):
    source, batch = Digits().train(), 16
    whole = batches(source, batch=batch, seed=2, transform=AUGMENT)
    sharding = NamedSharding(mesh(**axes), P("data"))
    held = [
        local_rows(sharding, batch, devices)
        for devices in np.split(np.array(jax.devices()), processes)
    ]
    assert sorted(np.concatenate(held)) == list(range(batch))
    for n in (0, 74, 75):
        for rows in held:
            e = n * batch + rows
            part = load(source, 2, e, shuffled(len(source)), AUGMENT)
            assert_same(part, {name: leaf[rows] for name, leaf in whole(n).items()})


def test_rows_of_replicas_and_of_scattered_devices():
    devices = jax.devices()
    by_model = NamedSharding(mesh(model=2, data=4), P("data"))
    assert local_rows(by_model, 8, devices[:4]).tolist() == list(range(8))
    assert local_rows(by_model, 8, [devices[1], devices[7]]).tolist() == [2, 3, 6, 7]
    assert local_rows(by_model, 8).tolist() == list(range(8))
    assert local_rows(NamedSharding(mesh(data=4), P()), 3, devices[:1]).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("axes", "spec"),
    [({"data": 8}, P("data")), ({"data": 2, "fsdp": 4}, P(("data", "fsdp"))), ({"model": 2}, P())],
    ids=str,
)
def test_global_arrays_hold_what_the_host_would(axes, spec):
    keywords = {"batch": 16, "seed": 0, "transform": AUGMENT, "epochs": 2}
    host = batches(Digits().valid(), **keywords)
    device = batches(Digits().valid(), **keywords, mesh=mesh(**axes), spec=spec)
    for n in (0, 29):
        assert_same(device(n), host(n))
        for leaf in device(n).values():
            assert leaf.sharding == NamedSharding(mesh(**axes), spec)


def test_evaluation_sees_every_example_once_under_the_mask():
    get = batches(Counting(10), batch=4, seed=0, epochs=1, shuffle=False)
    assert count(Counting(10), 4) == 3 and count(Counting(10), 4, epochs=2) == 5
    seen = [get(n) for n in range(3)]
    assert [b["mask"].tolist() for b in seen] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    assert all(b["mask"].dtype == np.float32 for b in seen)
    assert seen[2]["x"].tolist() == [8, 9, 9, 9]
    for n in (-1, 3):
        with pytest.raises(IndexError, match=rf"batch {n} is outside \[0, 3\)"):
            get(n)


def test_a_mask_of_the_examples_is_kept():
    source = ArraySource({"x": np.arange(3), "mask": np.array([True, False, True])})
    get = batches(source, batch=2, seed=0, epochs=1, shuffle=False)
    assert [get(n)["mask"].tolist() for n in range(2)] == [[1, 0], [1, 0]]
    assert get(0)["mask"].dtype == np.float32


def test_without_end_there_is_no_mask():
    get = batches(Counting(3), batch=4, seed=0)
    assert get(10**15).keys() == {"x"}
    with pytest.raises(IndexError):
        get(-1)


@pytest.mark.parametrize("transform", [None, AUGMENT], ids=["plain", "augmented"])
@pytest.mark.parametrize("epochs", [None, 1])
def test_abstract_is_what_comes(transform, epochs):
    source = Digits().test()
    spec = abstract(source, 16, transform, mask=epochs is not None)
    for where in (None, mesh(data=8)):
        got = batches(source, batch=16, seed=0, transform=transform, epochs=epochs, mesh=where)(0)
        assert {k: (x.shape, x.dtype) for k, x in got.items()} == {
            k: (x.shape, x.dtype) for k, x in spec.items()
        }
    counting = Counting()
    assert abstract(counting, 5)["x"].dtype == np.int32  # as on a device
    assert not counting.read


def drop_one(examples, rng):
    return {name: leaf[1:] for name, leaf in examples.items()}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch": 0}, "nothing to load"),
        ({"source": Counting(0)}, "source of 0 examples"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch": 10, "axes": {"data": 8}}, "not divisible by the 8 shards .* try 8 or 16"),
        ({"batch": 3, "axes": {"data": 8}}, "try 8"),
        ({"batch": 8, "axes": {"model": 8}}, "no axis 'data'; it has {'model': 8}"),
        ({"batch": 8, "axes": {"data": 8}, "spec": P("data", None)}, "leading dimension"),
    ],
)
def test_sizes_that_cannot_work_are_refused_at_once(keywords, message):
    axes = keywords.pop("axes", None)
    keywords = {"source": Counting(), "batch": 4, "seed": 0} | keywords
    with pytest.raises(InputError, match=message):
        batches(**keywords, mesh=axes and mesh(**axes))


def test_a_transform_must_keep_the_number_of_examples():
    with pytest.raises(InputError, match=r"drop_one.*'x' \[3\].*keep the 4 examples"):
        batches(Counting(), batch=4, seed=0, transform=drop_one)(0)


def test_integers_that_a_device_cannot_hold_are_refused():
    source = ArraySource({"id": np.array([1, 2**40])})
    get = batches(source, batch=2, seed=0, shuffle=False, mesh=Mesh(jax.devices()[:1], ("data",)))
    with pytest.raises(InputError, match=r"'id' has values 1 to 1099511627776, which int32"):
        get(0)
