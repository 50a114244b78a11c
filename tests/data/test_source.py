"""Sources in memory, and the digits."""

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.data import ArraySource, Digits, Draws, Scale, abstract


def arrays():
    return {"x": np.arange(12.0).reshape(4, 3), "label": np.array([0, 1, 1, 2])}


def test_an_array_source_gives_rows_and_their_spec():
    source = ArraySource(arrays(), {"label": 3})
    assert len(source) == 4 and source.sizes == {"label": 3}
    assert source[2]["x"].tolist() == [6, 7, 8] and source[2]["label"] == 1
    taken = source.take(np.array([3, 0]))
    assert taken["x"].tolist() == [[9, 10, 11], [0, 1, 2]] and taken["label"].tolist() == [2, 0]
    assert source.spec["x"].shape == (3,) and source.spec["label"].shape == ()


def test_the_fingerprint_follows_content_names_types_and_shapes():
    base = arrays()
    changed = base | {"x": base["x"].copy()}
    changed["x"][0, 0] += 1
    variants = [
        changed,
        {"y": base["x"], "label": base["label"]},
        base | {"x": base["x"].astype(np.float32)},
        base | {"x": base["x"][:, None]},
    ]
    prints = {ArraySource(a).fingerprint for a in [base, *variants]}
    assert len(prints) == 5 and all(len(p) == 64 for p in prints)
    assert ArraySource(dict(reversed(base.items()))).fingerprint == ArraySource(base).fingerprint


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        ({"x": np.zeros((3, 3))}, None, "differ in length"),
        ({"x": np.array(list("abcd"))}, None, "numeric"),
        ({"x": np.float32(1)}, None, "one row per example"),
        ({}, {"labels": 3}, "did you mean 'label'"),
        ({}, {"label": 2}, "values 0 to 2"),
    ],
)
def test_bad_arrays_are_refused(change, sizes, message):
    with pytest.raises(InputError, match=message):
        ArraySource(arrays() | change, sizes)


def test_no_arrays_are_refused():
    with pytest.raises(InputError, match="at least one"):
        ArraySource({})


def test_the_digits_are_split_once_for_all():
    data = Digits()
    splits = {"train": data.train(), "valid": data.valid(), "test": data.test()}
    assert {k: len(s) for k, s in splits.items()} == {"train": 1197, "valid": 240, "test": 360}
    counts = {k: np.bincount(s.arrays["label"]).tolist() for k, s in splits.items()}
    assert counts == {
        "train": [120, 112, 122, 122, 120, 123, 125, 116, 122, 115],
        "valid": [26, 23, 27, 26, 21, 21, 22, 23, 22, 29],
        "test": [32, 47, 28, 35, 40, 38, 34, 40, 30, 36],
    }
    assert all(s.sizes == {"label": 10} for s in splits.values())
    assert data.train() is Digits(batch=8).train()


def test_the_digits_splits_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    data = Digits()
    rows = np.concatenate(
        [s.arrays["image"].reshape(-1, 64) for s in (data.train(), data.valid(), data.test())]
    )
    original = load_digits().data.astype(np.uint8)
    assert (
        len(np.unique(original, axis=0)) == 1797
    )  # so equal sets of rows mean equal sets of digits
    assert np.array_equal(np.unique(rows, axis=0), np.unique(original, axis=0))
    assert len(rows) == 1797


def test_digits_through_their_transform():
    data = Digits(eval_transform=(Scale(0, 16, -1, 1),))
    for split, low in (("train", 0), ("valid", -1), ("test", -1)):
        source, transform = getattr(data, split)(), data.transform(split)
        spec = abstract(source, 4, transform)
        assert spec["image"].shape == (4, 8, 8, 1) and spec["image"].dtype == np.float32
        assert spec["label"].shape == (4,) and spec["label"].dtype == np.int32
        image = transform(source.arrays, Draws(0, np.arange(len(source))))["image"]
        assert (image.min(), image.max()) == (low, 1)
    assert data.plan("train") is None
    for method in (data.plan, data.transform):
        with pytest.raises(InputError, match="did you mean 'train'"):
            method("trian")
