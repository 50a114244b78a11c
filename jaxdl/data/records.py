"""Examples as records of array_record files: written once, read in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxdl.core.errors import InputError, suggest
from jaxdl.data.base import Transformed
from jaxdl.data.files import check_content, digest_of, find_files
from jaxdl.data.source import check_range

ONE_BY_ONE = "group_size:1,zstd"
"""Each record can be read without its neighbours."""
ANY_ORDER = "readahead_buffer_size:0,max_parallelism:0"


def write_records(path: str | Path, examples: Iterable[Mapping[str, np.ndarray]]) -> int:
    """Writes examples, each a mapping of numeric arrays, to one file; how many there were.

    A record is an example in safetensors form. The file is there whole or not at all.

    Raises: InputError for leaves that are not numbers, or unlike those of the first example.
    """
    path, count, first = Path(path), 0, None
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer = ArrayRecordWriter(str(unfinished), ONE_BY_ONE)
        for example in examples:
            # safetensors writes the memory as it lies, whatever the strides.
            leaves = {name: np.array(leaf, order="C") for name, leaf in example.items()}
            found = {name: (leaf.dtype, leaf.shape) for name, leaf in leaves.items()}
            first = first or found
            _check_leaves(found, first, f"example {count}")
            writer.write(save(leaves))
            count += 1
        writer.close()
        unfinished.replace(path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
    return count


@dataclass(frozen=True)
class Records(Transformed):
    """Examples of array_record files that `write_records` made, by split.

    The patterns are those of `find_files`; files count in the order of their names. Without
    patterns there is no such split. `sizes` gives the number of distinct values of integer leaves,
    e.g. `{"label": 10}`. Each `*_transform` is all that its splits go through.

    Shapes: as written.
    Raises: InputError, from the splits, for missing or broken files and leaves that differ.
    """

    files: tuple[str, ...]
    valid_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    batch: int = 64
    eval_batch: int = 0
    train_transform: tuple = ()
    eval_transform: tuple = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        """Refuses a single pattern where a tuple belongs."""
        for name in ("files", "valid_files", "test_files"):
            if isinstance(value := getattr(self, name), str):
                raise InputError(f"{name}={value!r} must be a tuple: ({value!r},).")

    def train(self) -> RecordSource | None:
        """The examples to learn from."""
        return self._source("files")

    def valid(self) -> RecordSource | None:
        """The examples to choose by."""
        return self._source("valid_files")

    def test(self) -> RecordSource | None:
        """The examples to report on."""
        return self._source("test_files")

    def _source(self, field: str) -> RecordSource | None:
        if not (patterns := getattr(self, field)):
            return None
        paths = find_files(patterns)
        for other in ("files", "valid_files", "test_files"):
            if other != field and (theirs := getattr(self, other)):
                if both := sorted(set(paths) & set(find_files(theirs))):
                    raise InputError(f"{both[0]} is in both {field} and {other}.")
        return RecordSource(paths, self.sizes)


class RecordSource:
    """Example i is record i of the files, one file after the other, read from disk each time.

    Raises: InputError for files that are no whole array_record files, or whose leaves differ.
    """

    def __init__(self, paths: Sequence[Path], sizes: Mapping[str, int] | None = None):
        """Opens the files and reads the first record of each."""
        check_content(paths)
        self.paths, self.sizes = list(paths), dict(sizes or {})
        self._readers = [_open(path) for path in paths]
        self._starts = np.cumsum([0, *(reader.num_records() for reader in self._readers)])
        self._leaves: dict = {}
        for k in range(len(paths)):
            example = self._read(k, [0])[0]
            self._leaves = self._leaves or {n: (x.dtype, x.shape) for n, x in example.items()}
            self._check(example, k, 0)
        for name in self.sizes:
            if name not in self._leaves:
                raise InputError(f"sizes: no leaf {name!r}; {suggest(name, self._leaves)}.")
        self.spec = {
            name: jax.ShapeDtypeStruct(shape, dtype)
            for name, (dtype, shape) in self._leaves.items()
        }

    def __len__(self) -> int:
        """The number of examples."""
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Example `i`."""
        return {name: leaf[0] for name, leaf in self.take(np.array([i])).items()}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples `indices` [m], stacked: every leaf [m, ...]."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"examples {indices.min()} to {indices.max()} of {len(self)}")
        out = {n: np.empty((len(indices), *s.shape), s.dtype) for n, s in self.spec.items()}
        files = np.searchsorted(self._starts, indices, side="right") - 1
        for k in np.unique(files):
            rows = np.flatnonzero(files == k)
            numbers = (indices[rows] - self._starts[k]).tolist()
            for row, i, example in zip(rows, numbers, self._read(k, numbers), strict=True):
                self._check(example, k, i)
                for name, leaf in example.items():
                    out[name][row] = leaf
        for name, size in self.sizes.items():
            check_range(name, out[name], size)
        return out

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the bytes of the files."""
        return digest_of(self.paths)

    def _read(self, k: int, numbers: list[int]) -> list[dict[str, np.ndarray]]:
        try:
            return [load(record) for record in self._readers[k].read(numbers)]
        except (RuntimeError, SafetensorError, KeyError) as error:
            raise InputError(
                f"{self.paths[k]}: cannot read the records {numbers[:8]}: {error}; write the file "
                "again with write_records."
            ) from None

    def _check(self, example: Mapping[str, np.ndarray], k: int, i: int) -> None:
        found = {name: (leaf.dtype, leaf.shape) for name, leaf in example.items()}
        _check_leaves(found, self._leaves, f"{self.paths[k]}: record {i}")


def _open(path: Path) -> ArrayRecordReader:
    reader = ArrayRecordReader(str(path), options=ANY_ORDER)
    if not reader.ok() or not reader.num_records():
        raise InputError(f"{path} is no array_record file, was cut short or holds no record.")
    return reader


def _check_leaves(found: Mapping[str, tuple], first: Mapping[str, tuple], where: str) -> None:
    """Refuses leaves, as {name: (dtype, shape)}, that are no numbers or unlike the first."""
    if not found or any(dtype.kind not in "biufc" for dtype, _ in found.values()):
        raise InputError(f"{where} has {_shown(found)}; leaves must be arrays of numpy's numbers.")
    if found != first:
        raise InputError(f"{where} has {_shown(found)}, the first {_shown(first)}.")


def _shown(leaves: Mapping[str, tuple]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in leaves.items())
