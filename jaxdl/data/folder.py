"""Folders of image files, one subfolder per class."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxdl.core.errors import InputError, suggest
from jaxdl.data.base import Transformed
from jaxdl.data.files import data_folder
from jaxdl.data.hashing import hashed
from jaxdl.data.images import decode, readable
from jaxdl.data.split import SPLITS
from jaxdl.data.transform import Scale

SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
"""The subfolders that a split may have."""
SEEN = ".jaxdl-images.json"
"""What was found in each image, kept beside them: decoding all of them once is dear."""
SHOWN = 5
Labelled = tuple[Path, int]
"""An image file and its class."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder(Transformed):
    """Images whose class is the name of their subfolder, in sorted order.

    `folder`, from the working directory or the data folder, holds either train/CLASS/..., with
    valid/ (or val/) and test/ beside it, or CLASS/...: then a hash of an image's name decides about
    its split, by the two fractions, and images that are added move no others.

    Every image becomes `size` x `size` in three channels, or one if `grey`; see
    `jaxdl.data.images.decode`. All are decoded once, to find damaged ones before training; what was
    found is kept in the folder, by size and time of each file. `corrupt` says what becomes of
    damaged ones: "error" names them, "skip" leaves them out and logs how many.

    Shapes: image [size, size, 3 or 1] (uint8, float32 once scaled to [0, 1]), label [] int32.
    Raises: InputError, from the splits, for a folder that is missing or has no images, unknown
    classes, and damaged images.
    """

    folder: str
    size: int
    grey: bool = False
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    corrupt: Literal["error", "skip"] = "error"
    batch: int = 64
    eval_batch: int = 0
    train_transform: tuple = (Scale(0, 255),)
    eval_transform: tuple = (Scale(0, 255),)

    def __post_init__(self):
        """Checks what needs no file."""
        if self.size < 1:
            raise InputError(f"size={self.size} must be at least 1.")
        fractions = self.valid_fraction, self.test_fraction
        if min(fractions) < 0 or sum(fractions) >= 1:
            raise InputError(f"valid_fraction and test_fraction {fractions} must leave some.")
        if self.corrupt not in ("error", "skip"):
            raise InputError(f"corrupt: {suggest(self.corrupt, ('error', 'skip'))}.")

    def train(self) -> ImageFiles:
        """Examples to learn from."""
        source = self._source("train")
        if source is None:
            raise InputError(f"{self.folder} has no image to train on.")
        return source

    def valid(self) -> ImageFiles | None:
        """Examples to choose by, if there are any."""
        return self._source("valid")

    def test(self) -> ImageFiles | None:
        """Examples to report on, if there are any."""
        return self._source("test")

    def _source(self, split: str) -> ImageFiles | None:
        root = _existing(self.folder)
        places = _places(root)
        if places:
            classes = _classes(places["train"])
            found = {name: _images(place, classes) for name, place in places.items()}
        else:
            classes = _classes(root)
            found = self._split(root, _images(root, classes))
        paths = [path for files in found.values() for path, _ in files]
        sound = _sound(root, paths, self.corrupt)
        files = [
            (path, label, sound[path]) for path, label in found.get(split, ()) if path in sound
        ]
        return ImageFiles(files, classes, self.size, self.grey) if files else None

    def _split(self, root: Path, files: list[Labelled]) -> dict[str, list[Labelled]]:
        bounds = 1 - self.valid_fraction - self.test_fraction, 1 - self.test_fraction
        found = {split: [] for split in SPLITS}
        for path, label in files:
            position = int(hashed("split", path.relative_to(root).as_posix())) / 2**64
            found[SPLITS[sum(position >= bound for bound in bounds)]].append((path, label))
        return found


class ImageFiles:
    """Image files, decoded as they are asked for.

    Shapes: image [size, size, 3 or 1] uint8, label [] int32.
    """

    def __init__(
        self, files: Sequence[tuple[Path, int, str]], classes: Sequence[str], size: int, grey: bool
    ):
        """Takes path, label and sha256 of each file; reads none."""
        self.files, self.classes, self.size, self.grey = list(files), tuple(classes), size, grey
        self.sizes = {"label": len(classes)}
        self.spec = {
            "image": jax.ShapeDtypeStruct((size, size, 1 if grey else 3), np.uint8),
            "label": jax.ShapeDtypeStruct((), np.int32),
        }

    def __len__(self) -> int:
        """The number of images."""
        return len(self.files)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Example `i`. Raises: InputError for a file that has been damaged since it was checked."""
        path, label, _ = self.files[i]
        try:
            image = decode(path, self.size, self.grey)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise InputError(f"{path} has changed since it was checked: {error}.") from error
        return {"image": image, "label": np.int32(label)}

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over labels and digests of the files, the classes and the size."""
        content = (
            [(label, digest) for _, label, digest in self.files],
            self.classes,
            self.size,
            self.grey,
        )
        return hashlib.sha256(repr(content).encode()).hexdigest()


def _existing(folder: str) -> Path:
    for root in (Path(folder), data_folder() / folder):
        if root.is_dir():
            return root
    raise InputError(f"there is no folder {folder!r}, here or in the data folder {data_folder()}.")


def _places(root: Path) -> dict[str, Path]:
    """The subfolders that are splits. Raises: InputError where one is twice, or `train` lacks."""
    found: dict[str, Path] = {}
    for place in sorted(p for p in root.iterdir() if p.is_dir()):
        for split in (s for s in SPLITS if place.name.lower() in NAMES[s]):
            if split in found:
                raise InputError(f"{found[split]} and {place} are both {split}; keep one of them.")
            found[split] = place
    if found and "train" not in found:
        there = ", ".join(place.name for place in found.values())
        raise InputError(f"{root} has {there}, but no 'train'; add it, or rename these classes.")
    return found


def _classes(place: Path) -> list[str]:
    found = sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise InputError(f"{place} has no subfolders; there must be one per class.")
    return found


def _images(place: Path, classes: Sequence[str]) -> list[Labelled]:
    """The image files of each class, by name, subfolders included; nothing hidden."""
    if unknown := set(_classes(place)) - set(classes):
        raise InputError(f"{place / min(unknown)} is no class of training: {', '.join(classes)}.")
    found, others = [], []
    for label, name in enumerate(classes):
        for path in sorted((place / name).rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
            if path.is_dir() or hidden:
                continue
            if path.suffix.lower() in SUFFIXES:
                found.append((path, label))
            else:
                others.append(path.name)
    if not found:
        raise InputError(f"{place} has no images ({', '.join(sorted(SUFFIXES))}).")
    if others:
        _warn(f"{place}: {len(others)} files are no images by their names: {_some(others)}.")
    return found


def _sound(root: Path, paths: Sequence[Path], corrupt: str) -> dict[Path, str]:
    """sha256 of each image that decodes; the others raise InputError, or are logged."""
    known = _recall(root)
    if broken := [str(path) for path in paths if not path.exists()]:
        raise InputError(f"links to nothing: {_some(broken)}; remove them.")
    stats = {path: path.stat() for path in paths}
    keys = {p: [p.relative_to(root).as_posix(), s.st_size, s.st_mtime_ns] for p, s in stats.items()}
    new = [path for path in paths if known.get(keys[path][0], [])[:2] != keys[path][1:]]
    if new:
        log.info("checking %d images of %s", len(new), root)
        # Pillow decodes outside the interpreter's lock, and warns of small faults that do no harm.
        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
            for path, seen in zip(new, pool.map(_inspected, new), strict=True):
                known[keys[path][0]] = [*keys[path][1:], *seen]
        _remember(root, known)
    seen = {path: known[keys[path][0]][2:] for path in paths}
    damaged = [f"{keys[path][0]} ({wrong})" for path, (_, wrong) in seen.items() if wrong]
    if damaged:
        told = f"{root}: {len(damaged)} of {len(paths)} images are damaged: {_some(damaged)}"
        if corrupt == "error":
            raise InputError(f"{told}. Mend or remove them, or set corrupt='skip'.")
        _warn(f"{told}; left out.")
    return {path: digest for path, (digest, wrong) in seen.items() if not wrong}


def _inspected(path: Path) -> tuple[str, str]:
    """sha256 (hex) of a file, and what is wrong with its image."""
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), readable(content)


def _recall(root: Path) -> dict[str, list]:
    try:
        known = json.loads((root / SEEN).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(root: Path, known: dict[str, list]) -> None:
    part = root / f"{SEEN}.{os.getpid()}"
    try:
        part.write_text(json.dumps(known))
        part.replace(root / SEEN)
    except OSError as error:
        log.info("%s is not kept (%s); the images are checked again next time.", SEEN, error)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


@cache
def _warn(message: str) -> None:
    """Once: every reading of a split comes by here."""
    log.warning(message)
