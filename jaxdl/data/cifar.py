"""The binary files of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxdl.core.errors import InputError

SIDE, CHANNELS = 32, 3
PIXELS = SIDE * SIDE * CHANNELS


def read_records(path: Path, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a file whose records are `labels` bytes, the last one kept, and pixels.

    Shapes: images [n, 32, 32, 3] uint8, labels [n] uint8.
    Raises: InputError for a file that holds no whole number of records.
    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % (labels + PIXELS):
        raise InputError(f"{path}: {len(content):,} bytes are no records of {labels + PIXELS:,}.")
    records = content.reshape(-1, labels + PIXELS)
    planes = records[:, labels:].reshape(-1, CHANNELS, SIDE, SIDE)
    return planes.transpose(0, 2, 3, 1), records[:, labels - 1]


def read_cifar10(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each split; the files may lie in a folder of `folder`.

    Raises: InputError for missing or damaged files.
    """
    return _read(folder, tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", 1)


def read_cifar100(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same for CIFAR-100, with the fine labels: a record's second byte."""
    return _read(folder, ("train.bin",), "test.bin", 2)


def _read(folder: Path, train: tuple[str, ...], test: str, labels: int) -> dict:
    found = {path.name: path for path in folder.rglob("*.bin")}
    if missing := {*train, test} - {*found}:
        raise InputError(f"{folder} lacks {', '.join(sorted(missing))}; it has {sorted(found)}.")
    images, classes = zip(*(read_records(found[name], labels) for name in train), strict=True)
    return {
        "train": (np.concatenate(images), np.concatenate(classes)),
        "test": read_records(found[test], labels),
    }
