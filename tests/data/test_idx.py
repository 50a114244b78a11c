"""MNIST's and CIFAR's own files, whole and damaged."""

import gzip

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.data.cifar import read_cifar10, read_cifar100
from jaxdl.data.idx import read_idx, read_mnist

toy = load_file(__file__.replace("test_idx", "toy"))


def test_reads_every_shape_and_type_plain_and_gzipped(tmp_path):
    path = tmp_path / "file"
    for code, dtype in (
        (8, "u1"),
        (9, "i1"),
        (0xB, ">i2"),
        (0xC, ">i4"),
        (0xD, ">f4"),
        (0xE, ">f8"),
    ):
        array = (np.arange(24) - 5).astype(dtype).reshape(2, 3, 4)
        content = bytes([0, 0, code, 3]) + np.array([2, 3, 4], ">u4").tobytes() + array.tobytes()
        for stored in (content, gzip.compress(content)):
            path.write_bytes(stored)
            found = read_idx(path)
            assert np.array_equal(found, array) and found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG....", "begins with 89 50 4e 47"),
        (toy.idx(np.zeros((2, 3), np.uint8))[:7], "cut short inside its header"),
        (toy.idx(np.zeros((2, 3), np.uint8))[:-1], "needs 6 bytes, there are 5"),
        (toy.idx(np.zeros((2, 3), np.uint8)) + b"\0", "needs 6 bytes, there are 7"),
        (gzip.compress(toy.idx(np.zeros((20, 30), np.uint8)))[:-9], "is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=f"file.*{said}"):
        read_idx(tmp_path / "file")


def test_images_and_labels_belong_together(tmp_path):
    made = toy.write_mnist(tmp_path)
    found = read_mnist(tmp_path)
    for split, (images, labels) in made.items():
        assert np.array_equal(found[split][0], images)
        assert np.array_equal(found[split][1], labels)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(toy.idx(np.zeros(63, np.uint8)))
    with pytest.raises(InputError, match=r"test images \(64, 8, 8\), labels \(63,\)"):
        read_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte is not there"):
        read_mnist(tmp_path)


@pytest.mark.row("D-003")
def test_cifar_records_are_labels_and_three_planes(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    fine, coarse = np.arange(12, dtype=np.uint8) * 8, np.arange(12, dtype=np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(12, -1)
    inner = tmp_path / "ten" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        rows = slice(2 * i, 2 * i + 2)
        np.hstack([coarse[rows, None], planes[rows]]).tofile(inner / f"{name}.bin")
    found = read_cifar10(tmp_path / "ten")
    assert np.array_equal(np.concatenate([found["train"][0], found["test"][0]]), images)
    assert np.array_equal(np.concatenate([found["train"][1], found["test"][1]]), coarse)
    for name, rows in (("train", slice(0, 9)), ("test", slice(9, 12))):
        np.hstack([coarse[rows, None], fine[rows, None], planes[rows]]).tofile(
            tmp_path / f"{name}.bin"
        )
    found = read_cifar100(tmp_path)
    assert np.array_equal(found["test"][0], images[9:])
    assert np.array_equal(found["train"][1], fine[:9])
    (tmp_path / "test.bin").write_bytes(bytes(3073))
    with pytest.raises(InputError, match=r"test\.bin: 3,073 bytes are no records of 3,074"):
        read_cifar100(tmp_path)
    (inner / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"lacks data_batch_3\.bin"):
        read_cifar10(tmp_path / "ten")
