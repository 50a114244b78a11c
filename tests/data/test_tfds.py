"""Data sets prepared by tensorflow-datasets: read right, learned from, refused with a way out."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxdl.core import dump, load
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.core.records import read_passport
from jaxdl.data import MNIST, TFDS, FashionMNIST, Scale
from jaxdl.train import fit

toy = load_file(__file__.replace("test_tfds", "toy"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder with two prepared sets, and the arrays of one of them."""
    import tensorflow_datasets as tfds

    from jaxdl.data.builder import prepare
    from jaxdl.data.idx import read_mnist

    root = tmp_path_factory.mktemp("data")
    made = toy.write_mnist(root / "toy" / "raw")
    prepare(root, "toy", read_mnist(root / "toy" / "raw"), tuple("abcd"))

    class Mixed(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "row": tfds.features.Tensor(shape=(3,), dtype=np.float32),
                "target": tfds.features.Scalar(dtype=np.float32),
                "title": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(10):
                jpeg = io.BytesIO()
                Image.new("RGB", (40 + i, 30), (200, 20 * i, 0)).save(jpeg, "jpeg")
                jpeg.seek(0)
                row = np.arange(3, dtype=np.float32) + i
                yield i, {"image": jpeg, "row": row, "target": row.sum(), "title": f"title {i}"}

    Mixed(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root, made


def data(root, **changes):
    splits = {"train_split": "train[:75%]", "valid_split": "train[75%:]", "test_split": "test"}
    scaled = (Scale(0, 255),)
    chosen = {"train_transform": scaled, "eval_transform": scaled, "batch": 32, "eval_batch": 32}
    return TFDS("toy", str(root), **splits, **chosen, **changes)


def test_importing_the_data_leaves_tensorflow_datasets_alone():
    code = "import sys, jaxdl.data; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_every_example_is_there_once_bit_for_bit(prepared):
    root, made = prepared
    config = data(root)
    assert load(dump(config)) == config
    sources = [config.train(), config.valid()]
    assert [len(source) for source in sources] == [240, 80] and sources[0].sizes == {"label": 4}
    found = [source.take(np.arange(len(source))[::-1]) for source in sources]
    images, labels = (np.concatenate([part[name] for part in found]) for name in ("image", "label"))
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    pairs = sorted((image.tobytes(), int(k)) for image, k in zip(images, labels, strict=True))
    expected = sorted((image.tobytes(), int(k)) for image, k in zip(*made["train"], strict=True))
    assert pairs == expected
    one = config.train()[3]
    assert np.array_equal(one["image"], found[0]["image"][-4]) and one["label"].shape == ()


def test_memory_changes_nothing_but_speed(prepared):
    root, _ = prepared
    disk, memory = data(root).train(), data(root, memory=True).train()
    assert data(root, memory=True).train() is memory, "decoded once"
    assert disk.spec == memory.spec and disk.sizes == memory.sizes
    index = np.array([5, 5, 239, 0])
    for name, leaf in memory.take(index).items():
        assert np.array_equal(disk.take(index)[name], leaf)


@pytest.mark.row("D-023")
def test_trains_from_disk_without_tensorflow(prepared, tmp_path):
    config = data(prepared[0])
    result = fit(toy.experiment(config), tmp_path / "run").result
    assert result.metrics["test"]["accuracy"] > 0.9  # chance is 0.25
    assert read_passport(tmp_path / "run").data["train"] == config.train().fingerprint
    assert "tensorflow" not in sys.modules


@pytest.mark.row("D-023")
def test_fingerprint_follows_the_shards_and_the_split(prepared, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(prepared[0], root)
    source = data(root).train()
    before = source.fingerprint
    assert data(prepared[0]).train().fingerprint == before != data(root).valid().fingerprint
    shard = root / "toy" / "1.0.0" / "toy-train.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert data(root).train().fingerprint != before


def test_numbers_and_images_of_any_size(prepared):
    root, _ = prepared
    features = {"image": "image", "x": "row", "y": "target"}
    source = TFDS("mixed:1.2.0", str(root), features=features, size=16).train()
    found = source.take(np.arange(10))
    assert found["image"].shape == (10, 16, 16, 3) and found["x"].dtype == np.float32
    assert np.array_equal(found["y"], found["x"].sum(1)) and source.sizes == {}
    green = np.rint((found["y"] - 3) / 3) * 20
    assert (
        np.abs(
            found["image"][:, 8, 8].astype(int) - np.stack([green * 0 + 200, green, green * 0], 1)
        ).max()
        < 4
    )


def test_damage_is_found(prepared, tmp_path):
    place = tmp_path / "toy" / "1.0.0"
    shutil.copytree(prepared[0] / "toy" / "1.0.0", place)
    shard = place / "toy-train.array_record-00000-of-00001"
    content = shard.read_bytes()
    source = data(tmp_path).train()
    shard.write_bytes(content[: len(content) // 8])
    with pytest.raises(InputError, match=r"1\.0\.0 is damaged"):
        source.take(np.arange(len(source)))
    shard.unlink()
    with pytest.raises(InputError, match=r"toy-train.* is not there"):
        data(tmp_path).train()
    for name, content in (("features.json", None), ("dataset_info.json", "{")):
        (place / name).unlink() if content is None else (place / name).write_text(content)
        with pytest.raises(InputError, match=r"1\.0\.0 cannot be read"):
            data(tmp_path).train()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("toy:1.0", {}, r"'toy:1.0' is not prepared in .*did you mean 'toy:1.0.0'"),
        ("toy:2.0.0", {}, r"choose from: mixed:1.2.0, toy:1.0.0"),
        ("other", {}, r"`tfds build other --data_dir=.* --file_format=array_record`"),
        (
            "toy",
            {"train_split": "tran"},
            r"toy has no split 'tran'; it has train \(320\), test \(64\)",
        ),
        ("toy", {"train_split": "train[:oops]"}, r"no split 'train\[:oops\]'"),
        ("toy", {"train_split": "train[:0]"}, r"the split 'train\[:0\]' of toy is empty"),
        ("toy", {"size": -1}, "size=-1 must be at least 1"),
        ("toy", {"features": {}}, "leaves nothing of the examples"),
        ("toy", {"features": {"image": "img"}}, r"no feature 'img'.*did you mean 'image'"),
        ("mixed", {"features": {"x": "title"}}, r"'title' is Text, not numbers"),
        ("mixed", {"features": {"image": "image"}}, r"'image' has shapes .*give a `size`"),
    ],
)
def test_refusals_name_the_way_out(prepared, name, changes, said):
    with pytest.raises(InputError, match=said):
        TFDS(name, str(prepared[0]), **changes).train()


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [("train[:80%]", "train[75%:]", ""), ("train", "train", ""), ("train", "test", "test[:9]")],
)
def test_no_example_is_in_two_splits(prepared, train, valid, test):
    splits = {"train_split": train, "valid_split": valid, "test_split": test}
    config = TFDS("toy", str(prepared[0]), **splits)
    with pytest.raises(InputError, match="shares examples"):
        config.test() if test else config.valid()


def test_what_jaxdl_fetches_is_named_in_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path))
    with pytest.raises(InputError, match="`jaxdl data get fashion_mnist`"):
        FashionMNIST().train()
    with pytest.raises(InputError, match="`jaxdl data get mnist`"):
        MNIST().test()
