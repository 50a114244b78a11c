"""Records: what was written comes back, in any order; what is broken is said."""

import numpy as np
import pytest

from jaxdl.core import dump, load
from jaxdl.core.errors import InputError
from jaxdl.data import Flip, Records, batches, write_records

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 6, 5, 3), np.uint8)


def example(i):
    return {
        "image": IMAGES[i],
        "label": np.int64(i % 4),
        "weight": np.float16(i / 8),
        "seen": i > 9,
    }


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Fifty examples in files of 30, 19 and 1."""
    monkeypatch.chdir(tmp_path)
    for k, (low, high) in enumerate([(0, 30), (30, 49), (49, 50)]):
        assert write_records(f"train-{k}.arrayrecord", map(example, range(low, high))) == high - low
    return Records(files=("train-*.arrayrecord",), batch=8, sizes={"label": 4})


def test_what_was_written_comes_back_in_any_order(shards):
    source = shards.train()
    assert len(source) == 50 and source.sizes == {"label": 4}
    order = np.concatenate([RNG.permutation(50), [49, 49, 0]])
    taken = source.take(order)
    for name, leaf in taken.items():
        expected = np.stack([np.asarray(example(i)[name]) for i in order])
        assert leaf.dtype == expected.dtype == source.spec[name].dtype, name
        assert np.array_equal(leaf, expected), name
        assert source.spec[name].shape == expected.shape[1:]
        assert np.array_equal(source[17][name], example(17)[name])
    for i in (-1, 50):
        with pytest.raises(IndexError):
            source[i]


def test_strided_leaves_are_written_as_they_read(tmp_path):
    leaves = {"t": IMAGES[0].T, "f": np.asfortranarray(IMAGES[1]), "s": IMAGES[2, ::2]}
    write_records(tmp_path / "a", [leaves])
    back = Records(files=(str(tmp_path / "a"),)).train()[0]
    assert all(np.array_equal(back[name], leaf) for name, leaf in leaves.items())


def test_a_config_of_records_is_data(shards):
    changes = {"files": ("train-0*",), "valid_files": ("train-1*",), "train_transform": (Flip(),)}
    config = Records(**vars(shards) | changes)
    assert load(dump(config)) == config
    assert len(config.valid()) == 19 and config.test() is None
    get = batches(config.train(), batch=8, seed=0, transform=config.transform("train"))
    seen = np.concatenate([get(n)["weight"] for n in range(30)])
    assert np.array_equal(np.sort(seen * 8), np.repeat(np.arange(30), 8))


def test_the_fingerprint_is_the_content(shards, tmp_path):
    before = shards.train().fingerprint
    (tmp_path / "train-2.arrayrecord").rename("train-9.arrayrecord")
    assert shards.train().fingerprint == before
    write_records("train-9.arrayrecord", [example(48)])
    assert shards.train().fingerprint != before


def damage(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def test_broken_files_are_refused(shards, tmp_path):
    path = tmp_path / "train-0.arrayrecord"
    whole = path.read_bytes()
    for content in (b"", b"text" * 1000, whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"train-0.arrayrecord"):
            shards.train()
    path.write_bytes(whole)
    for offset in range(
        0, len(whole), len(whole) // 60
    ):  # wherever it is, it is noticed or it changes nothing
        path.write_bytes(whole)
        damage(path, offset)
        try:
            found = shards.train().take(np.arange(30))
        except InputError as error:
            assert "train-0.arrayrecord" in str(error)
        else:
            assert np.array_equal(found["image"], IMAGES[:30])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([example(0), {"image": IMAGES[1]}], r"example 1 has image uint8\[6, 5, 3\], the first"),
        ([{"x": np.zeros(3)}, {"x": np.zeros(4)}], r"example 1 .*\[4\], the first x float64\[3\]"),
        ([{"name": "cat"}], "numpy's numbers"),
        ([{}], "numpy's numbers"),
    ],
)
def test_examples_must_be_alike_and_numeric(tmp_path, examples, message):
    (tmp_path / "kept").write_text("before")
    with pytest.raises(InputError, match=message):
        write_records(tmp_path / "kept", examples)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("kept", "before")]


def test_files_must_hold_the_same_leaves(shards):
    write_records("train-3.arrayrecord", [{"image": IMAGES[0]}])
    with pytest.raises(InputError, match=r"train-3\.arrayrecord: record 0 has image uint8"):
        shards.train()
    with pytest.raises(InputError, match="must be a tuple"):
        Records(files="train-*")
    with pytest.raises(InputError, match="matches no file"):
        Records(files=("valid-*",)).train()


def test_files_in_two_splits_and_labels_out_of_range_are_refused(tmp_path):
    examples = [{"image": np.zeros(2, np.float32), "label": np.int32(i)} for i in range(4)]
    write_records(tmp_path / "a.array_record", examples)
    file = (str(tmp_path / "a.array_record"),)
    with pytest.raises(InputError, match=r"a.array_record is in both files and valid_files"):
        Records(files=file, valid_files=file).train()
    with pytest.raises(InputError, match=r"no leaf 'lable'; did you mean 'label'"):
        Records(files=file, sizes={"lable": 3}).train()
    source = Records(files=file, sizes={"label": 3}).train()
    with pytest.raises(InputError, match=r"'label' has values 0 to 3, outside \[0, 3\)"):
        source.take(np.arange(4))
