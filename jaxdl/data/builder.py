"""Writing images and labels as a data set of tensorflow-datasets (slow to import: do it late)."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxdl.core.errors import InputError
from jaxdl.data.catalog import VERSION


def prepare(
    root: Path,
    name: str,
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: tuple[str, ...],
) -> Path:
    """Writes `root/name/1.0.0`: PNG images and class labels in array_record files.

    Nothing is there under that name before all is written.

    Shapes: splits {name: (images [n, H, W, C] uint8, labels [n] integer)}.
    Raises: InputError for a label that no class has.
    """
    for split, (_, labels) in splits.items():
        if (largest := int(labels.max())) >= len(classes):
            raise InputError(
                f"{name}: {split} has the label {largest}, but there are {len(classes)} classes; "
                "its files are damaged."
            )
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as nothing, contextlib.redirect_stdout(io.StringIO()):
        Images(name, splits, classes, root).download_and_prepare(download_dir=nothing)
    return root / name / VERSION


class Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder over arrays in memory, so that it needs neither a download nor TensorFlow."""

    name = "images"
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, name: str, splits: Mapping, classes: tuple[str, ...], root: Path):
        """What `prepare` takes."""
        self.name, self._splits, self._classes = name, splits, classes
        super().__init__(data_dir=os.fspath(root), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        images, _ = next(iter(self._splits.values()))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=images.shape[1:], encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=self._classes),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
        return {split: self._generate_examples(*arrays) for split, arrays in self._splits.items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(png, "png")
            png.seek(0)
            yield i, {"image": png, "label": int(label)}
