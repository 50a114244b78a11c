"""Loaders: jaxdl's own, numpy written by hand, and grain. A turn is of n batches.

Images are normalised to (x / 255 - 0.5) / 0.25.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

PAD = 4
Built = tuple[Callable[[int], None], dict[str, Any]]


def ours(task: str, batch: int, size: int, images: int, folder: str) -> Built:
    """`jaxdl.data.batches` of an `ArraySource` or an `ImageFolder`."""
    from jaxdl import data

    normalize = data.Normalize(127.5, 63.75)
    if task == "arrays":
        source = data.ArraySource({"image": pixels(images, size)})
        transform = data.Chain((data.Crop(PAD), data.Flip(), normalize))
    else:
        source = data.ImageFolder(folder, size).train()
        transform = data.Chain((data.Flip(), normalize))
    get, done = data.batches(source, batch=batch, seed=0, transform=transform), 0

    def run(n: int) -> None:
        nonlocal done
        for i in range(done, done + n):
            check(get(i)["image"], batch, size)
        done += n

    return run, {}


def looped(task: str, batch: int, size: int, images: int, folder: str) -> Built:
    """One image after the other, stacked."""
    examples, augment, rng = Examples(task, size, images, folder), AUGMENT[task], _rng()

    def generate() -> Iterator[np.ndarray]:
        while True:
            order = rng.permutation(len(examples))
            for start in range(0, len(order) - batch + 1, batch):
                rows = order[start : start + batch]
                yield np.stack([augment(examples[i], rng) for i in rows])

    return runner(generate(), batch, size)


def vectorised(task: str, batch: int, size: int, images: int, folder: str) -> Built:
    """A batch gathered at once from padded images, normalised by a table; arrays only."""
    rng, x = _rng(), pixels(images, size)
    padded = np.pad(x, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    table = normalized(np.arange(256))
    line = np.arange(size)

    def generate() -> Iterator[np.ndarray]:
        while True:
            order = rng.permutation(len(x))
            for start in range(0, len(order) - batch + 1, batch):
                top, left = rng.integers(0, 2 * PAD + 1, (2, batch, 1))
                flipped = np.where(rng.random((batch, 1)) < 0.5, line[::-1], line)
                rows, columns = (top + line)[:, :, None], (left + flipped)[:, None, :]
                picked = order[start : start + batch, None, None]
                yield table[padded[picked, rows, columns]]

    return runner(generate(), batch, size)


def grained(task: str, batch: int, size: int, images: int, folder: str) -> Built:
    """grain in this process, one thread."""
    import grain

    examples, augment = Examples(task, size, images, folder), AUGMENT[task]
    dataset = grain.MapDataset.source(examples).seed(0).shuffle().repeat()
    dataset = dataset.random_map(augment).batch(batch)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return runner(iter(dataset.to_iter_dataset(options)), batch, size)


class Examples:
    """Images by index, as they are stored: pixels, or the path of a file."""

    def __init__(self, task: str, size: int, images: int, folder: str):
        """Makes the pixels, or lists the files."""
        files = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
        self._items = pixels(images, size) if task == "arrays" else [(f, size) for f in files]

    def __len__(self) -> int:
        """The number of images."""
        return len(self._items)

    def __getitem__(self, i: int) -> Any:
        """Pixels [size, size, 3] uint8, or path and size."""
        return self._items[i]


def pixels(images: int, size: int) -> np.ndarray:
    """Random images uint8 [images, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (images, size, size, 3), dtype=np.uint8)


def normalized(x: np.ndarray) -> np.ndarray:
    """float32 of mean 0 and range -2 to 2."""
    return (x.astype(np.float32) / 255 - 0.5) / 0.25


def crop_and_flip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random window after padding, mirrored half of the time, normalised."""
    size = x.shape[0]
    padded = np.zeros((size + 2 * PAD, size + 2 * PAD, 3), x.dtype)
    padded[PAD:-PAD, PAD:-PAD] = x
    top, left = rng.integers(0, 2 * PAD + 1, 2)
    return _flipped(padded[top : top + size, left : left + size], rng)


def decode_and_flip(item: tuple[str, int], rng: np.random.Generator) -> np.ndarray:
    """The centre square of a JPEG file resized, mirrored half of the time, normalised."""
    path, size = item
    with Image.open(path) as image:
        image.draft("RGB", (size, size))
        square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return _flipped(np.asarray(square), rng)


AUGMENT = {"arrays": crop_and_flip, "jpeg": decode_and_flip}


def runner(batches: Iterator[np.ndarray], batch: int, size: int) -> Built:
    """Takes n batches."""

    def run(n: int) -> None:
        for _ in range(n):
            check(next(batches), batch, size)

    return run, {}


def check(x: np.ndarray, batch: int, size: int) -> None:
    """That a loader made what it should."""
    assert x.shape == (batch, size, size, 3) and str(x.dtype).endswith("float32"), x.shape
    assert math.isfinite(float(x[0, 0, 0, 0]))


def _flipped(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return normalized(x[:, ::-1] if rng.random() < 0.5 else x)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
