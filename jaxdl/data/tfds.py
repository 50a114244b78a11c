"""Data sets prepared by tensorflow-datasets, read without TensorFlow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.core.errors import InputError, suggest
from jaxdl.data.base import Transformed
from jaxdl.data.catalog import ENTRIES
from jaxdl.data.files import data_folder, digest_of
from jaxdl.data.images import decode
from jaxdl.data.source import ArraySource
from jaxdl.data.transform import Scale

INFO = "dataset_info.json"
CHUNK = 1024
"""Examples that are decoded at once where all are."""
Range = tuple[str, int, int]
"""A shard's file, and the first and last + 1 of the records taken from it."""


@dataclass(frozen=True)
class TFDS(Transformed):
    """A prepared data set, such as `TFDS("fashion_mnist")` or `TFDS("name/config:1.0.0")`.

    It lies in `folder`, by default where `jaxdl data get` puts it. A split is an expression of
    tensorflow-datasets, such as "train[:90%]"; "" means that there is none. `features` maps the
    examples' leaves to features of the data set. Images whose sizes differ need a `size`: the
    centred square, resized. With `memory`, all examples are decoded once and kept; without it, they
    are read and decoded batch by batch.

    Shapes: as the features say: image [H, W, C] uint8, label [] int32.
    Raises: InputError, from the splits, for data that are not prepared, unknown or empty splits,
    unknown features, features that are no numbers, and examples of two splits.
    """

    name: str
    folder: str = ""
    train_split: str = "train"
    valid_split: str = ""
    test_split: str = ""
    features: Mapping[str, str] = field(default_factory=lambda: dict(image="image", label="label"))
    size: int = 0
    memory: bool = False
    batch: int = 64
    eval_batch: int = 0
    train_transform: tuple = ()
    eval_transform: tuple = ()

    def __post_init__(self):
        """Checks what needs no file."""
        if self.size < 0:
            raise InputError(f"size={self.size} must be at least 1, or 0 for images as they are.")
        if not self.features:
            raise InputError("features={} leaves nothing of the examples; name at least one.")

    def train(self) -> TFDSSource | ArraySource:
        """Examples to learn from."""
        return self._source(self.train_split)

    def valid(self) -> TFDSSource | ArraySource | None:
        """Examples to choose by, if `valid_split` is set."""
        return self._source(self.valid_split, self.train_split) if self.valid_split else None

    def test(self) -> TFDSSource | ArraySource | None:
        """Examples to report on, if `test_split` is set."""
        others = self.train_split, self.valid_split
        return self._source(self.test_split, *others) if self.test_split else None

    def _source(self, split: str, *others: str) -> TFDSSource | ArraySource:
        """The examples of `split`, which has none in common with `others` ("" for none)."""
        builder = open_prepared(self.name, self.folder)
        used = _ranges(builder, split)
        for other in filter(None, others):
            if overlap(used, _ranges(builder, other)):
                raise InputError(f"{self.name}: {split!r} shares examples with {other!r}.")
        source = TFDSSource(builder, split, self.features, self.size)
        return _in_memory(source) if self.memory else source


@dataclass(frozen=True)
class MNIST(TFDS):
    """Handwritten digits: 55,000 to train, 5,000 to validate, 10,000 to test; pixels 0 to 1.

    Shapes: image [28, 28, 1] (uint8, float32 once scaled), label [] int32.
    Source: LeCun, Bottou, Bengio and Haffner 1998. `jaxdl data get mnist` fetches it.
    """

    name: str = "mnist"
    train_split: str = "train[:55000]"
    valid_split: str = "train[55000:]"
    test_split: str = "test"
    memory: bool = True
    train_transform: tuple = (Scale(0, 255),)
    eval_transform: tuple = (Scale(0, 255),)


@dataclass(frozen=True)
class FashionMNIST(MNIST):
    """Clothes in ten classes, otherwise like MNIST.

    Shapes: image [28, 28, 1] (uint8, float32 once scaled), label [] int32.
    Source: Xiao et al. 2017, arXiv:1708.07747. `jaxdl data get fashion_mnist` fetches it.
    """

    name: str = "fashion_mnist"


class TFDSSource:
    """One split of a prepared data set, read and decoded as it is asked for.

    Two of the same content are equal. Shapes: as `spec` says.
    """

    def __init__(self, builder: Any, split: str, features: Mapping[str, str], size: int):
        """Checks the features; reads no record."""
        import tensorflow_datasets as tfds

        known = builder.info.features
        self.features, self.size, self.ranges = dict(features), size, _ranges(builder, split)
        self.sizes, self.spec, self._grey = {}, {}, {}
        self.place = builder.data_path
        if absent := [file for file, *_ in self.ranges if not Path(file).is_file()]:
            raise InputError(f"{absent[0]} is not there; remove its folder and prepare it again.")
        for name, feature in features.items():
            if feature not in known:
                raise InputError(
                    f"{builder.info.name} has no feature {feature!r}; {suggest(feature, known)}."
                )
            kind = known[feature]
            self.spec[name] = _leaf(feature, kind, size)
            if isinstance(kind, tfds.features.ClassLabel):
                self.sizes[name] = kind.num_classes
            if isinstance(kind, tfds.features.Image):
                self._grey[name] = self.spec[name].shape[-1] == 1
        images = [name for name in known if isinstance(known[name], tfds.features.Image)]
        skip = {name: tfds.decode.SkipDecoding() for name in images}
        try:
            self.records = builder.as_data_source(split=split, decoders=skip)
        except NotImplementedError:
            raise InputError(
                f"{builder.data_dir} is in the format {builder.info.file_format.value}, which "
                "cannot be read in any order; prepare it with --file_format=array_record."
            ) from None

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Example `i`."""
        return {name: leaf[0] for name, leaf in self.take(np.array([i])).items()}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples `indices` [m], stacked: every leaf [m, ...].

        Raises: InputError for damaged shards, which carry checksums of their records.
        """
        try:
            records = self.records.__getitems__(np.asarray(indices).tolist())
        except RuntimeError as error:
            raise InputError(f"{self.place} is damaged ({error}); prepare it again.") from error
        return {name: self._stacked(name, records) for name in self.features}

    def _stacked(self, name: str, records: list[dict]) -> np.ndarray:
        values = [record[self.features[name]] for record in records]
        if name in self._grey:
            values = [decode(value, self.size, self._grey[name]) for value in values]
        return np.asarray(values, self.spec[name].dtype)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the shards, which records are taken of them, and the features."""
        files = {file: digest_of([Path(file)]) for file, *_ in self.ranges}
        taken = [(files[file], first, last) for file, first, last in self.ranges]
        content = taken, sorted(self.features.items()), self.size
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Whether the content is the same."""
        return isinstance(other, TFDSSource) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        """By content."""
        return hash(self.fingerprint)


def open_prepared(name: str, folder: str = "") -> Any:
    """The read-only builder of `name`: "set", "set/config", "set:1.0.0"; the newest version.

    Raises: InputError with the command that prepares it, and what is there.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    root = Path(folder) if folder else data_folder()
    there = {f"{p.parent.parent.relative_to(root)}:{p.parent.name}": p.parent for p in _found(root)}
    fitting = [known for known in there if name in (known, known.partition(":")[0])]
    if not fitting:
        raise InputError(
            f"{name!r} is not prepared in {root}; {suggest(name, there)}. Prepare it: "
            f"`{_remedy(name.partition(':')[0], root)}`."
        )
    place = there[max(fitting, key=_version)]
    try:
        return tfds.builder_from_directory(place)
    except (ValueError, ParseError) as error:
        raise InputError(
            f"{place} cannot be read ({error}); remove it and prepare it again."
        ) from None


def overlap(some: list[Range], others: list[Range]) -> bool:
    """Whether two lists of records have one in common."""
    return any(
        file == other and first < end and start < last
        for file, first, last in some
        for other, start, end in others
    )


def _remedy(name: str, root: Path) -> str:
    if name in ENTRIES and ENTRIES[name].read and root == data_folder():
        return f"jaxdl data get {name}"
    return f"tfds build {name or 'NAME'} --data_dir={root} --file_format=array_record"


def _version(name: str) -> list[int]:
    """The numbers of "set:1.0.0", to be compared."""
    return [int(number) for number in re.findall(r"\d+", name.rpartition(":")[2])]


def _found(root: Path) -> list[Path]:
    """The descriptions of the data sets in `root`: set/1.0.0/ or set/config/1.0.0/."""
    return [path for depth in ("*/*", "*/*/*") for path in root.glob(f"{depth}/{INFO}")]


def _ranges(builder: Any, split: str) -> list[Range]:
    """The records of a split expression. Raises: InputError where there are none."""
    known = builder.info.splits
    try:
        taken = known[split].file_instructions
    except (KeyError, ValueError, AssertionError):
        names = ", ".join(f"{name} ({info.num_examples:,})" for name, info in known.items())
        raise InputError(
            f"{builder.info.name} has no split {split!r}; it has {names}, and slices of them such "
            "as 'train[:90%]'."
        ) from None
    if not taken:
        raise InputError(f"the split {split!r} of {builder.info.name} is empty.")
    return [(part.filename, part.skip, part.skip + part.take) for part in taken]


def _leaf(name: str, kind: Any, size: int) -> jax.ShapeDtypeStruct:
    """What an example holds of a feature. Raises: InputError unless it is numbers of one shape."""
    import tensorflow_datasets as tfds

    if isinstance(kind, tfds.features.ClassLabel):
        return jax.ShapeDtypeStruct((), np.int32)
    info = kind.get_tensor_info()
    if not isinstance(info, tfds.features.TensorInfo) or info.np_dtype.kind not in "biuf":
        raise InputError(
            f"feature {name!r} is {type(kind).__name__}, not numbers; choose others by `features`."
        )
    shape = info.shape
    if isinstance(kind, tfds.features.Image):
        if info.np_dtype != np.uint8 or shape[-1] not in (1, 3):
            raise InputError(
                f"feature {name!r} is an image {shape} of {info.np_dtype}; supported are uint8 "
                "images of 1 or 3 channels."
            )
        shape = (size, size, shape[-1]) if size else shape
    if None in shape:
        raise InputError(f"feature {name!r} has shapes {shape}; for images give a `size`.")
    return jax.ShapeDtypeStruct(shape, info.np_dtype)


@lru_cache(maxsize=6)
def _in_memory(source: TFDSSource) -> ArraySource:
    """All examples, decoded."""
    n = len(source)
    arrays = {name: np.empty((n, *leaf.shape), leaf.dtype) for name, leaf in source.spec.items()}
    for i in range(0, n, CHUNK):
        for name, leaf in source.take(np.arange(i, min(i + CHUNK, n))).items():
            arrays[name][i : i + CHUNK] = leaf
    return ArraySource(arrays, source.sizes)
