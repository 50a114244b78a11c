"""IDX files, the format of MNIST and of the sets that took its place."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from jaxdl.core.errors import InputError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The third byte of a file -> numpy's name of its numbers."""
PARTS = {"train": "train", "test": "t10k"}
GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, plain or gzipped: any shape, in the machine's byte order.

    Raises: InputError for a file that is missing, not IDX, cut short or too long.
    Source: the description beside the MNIST files (LeCun, Cortes and Burges 1998).
    """
    if not path.is_file():
        raise InputError(f"{path} is not there.")
    content = path.read_bytes()
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path} is damaged: {error}; fetch it again.") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES:
        raise InputError(f"{path} is not an IDX file: it begins with {content[:4].hex(' ')}.")
    dtype, rank = np.dtype(TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise InputError(f"{path} is cut short inside its header.")
    shape = struct.unpack(f">{rank}I", content[4:start])
    found, expected = len(content) - start, math.prod(shape) * dtype.itemsize
    if found != expected:
        raise InputError(f"{path}: {shape} needs {expected:,} bytes, there are {found:,}.")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder())


def read_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each split from MNIST's four files.

    Shapes: images [n, H, W, 1] uint8, labels [n] uint8.
    Raises: InputError for missing or damaged files, or images without labels.
    """
    found = {}
    for split, part in PARTS.items():
        images, labels = (
            read_idx(_named(folder, f"{part}-{name}"))
            for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise InputError(f"{folder}: {split} images {images.shape}, labels {labels.shape}.")
        found[split] = images[..., None], labels
    return found


def _named(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name
