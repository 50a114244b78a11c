"""Toy images that can be learned: noise with a bright spot whose place is the class."""

import gzip
import struct

import numpy as np

SIDE, CLASSES = 8, 4


def images(n, seed):
    """`n` images [n, 8, 8, 1] uint8 and their classes [n] uint8."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.uint8)
    pixels = rng.integers(0, 100, (n, SIDE, SIDE, 1)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 2] += 120
    return pixels, labels


def idx(array):
    """The bytes of an IDX file of uint8."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, train=320, test=64):
    """MNIST's four files, the images gzipped, with toy images; the arrays of both splits."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"train": images(train, 0), "test": images(test, 1)}
    for split, part in (("train", "train"), ("test", "t10k")):
        pixels, labels = made[split]
        packed = gzip.compress(idx(pixels[..., 0]), mtime=0)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(packed)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return made


def experiment(data):
    """A small network that has to learn the classes; `fit` ends with its test accuracy."""
    from jaxdl.core import Experiment
    from jaxdl.models.mlp import MLP
    from jaxdl.optim import AdamW, Constant
    from jaxdl.tasks import Classification

    return Experiment(
        model=MLP(widths=(32,), classes=CLASSES),
        task=Classification(),
        data=data,
        optim=AdamW(peak_lr=1e-2, schedule=Constant()),
        steps=60,
    )
