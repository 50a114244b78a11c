"""Finding local data files, and reading them without holding them."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from jaxdl.core.errors import InputError

CHUNK = 2**20
"""Bytes read at once."""
OPEN = 64
"""Files kept open by one `Mapped`: a process may have about a thousand."""


def data_folder() -> Path:
    """Where data sets lie: $JAXDL_DATA, or `data` in the working directory."""
    return Path(os.environ.get("JAXDL_DATA") or "data").absolute()


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files that match any of the glob patterns (`**` included), each once, sorted by name.

    A pattern counts from the working directory or, where nothing there matches, from the data
    folder.

    Raises: InputError for a pattern without a match, with the folder looked in and near matches.
    """
    found = set()
    for pattern in patterns:
        files = _matches(pattern) or _matches(data_folder() / pattern)
        if not files:
            raise InputError(_no_match(pattern))
        found |= files
    if not found:
        raise InputError("no files were named; give at least one pattern, such as 'data/*.txt'.")
    return sorted(found)


def check_content(paths: Sequence[Path], size: int = 0, sha256: str = "") -> None:
    """Checks the files' bytes, one file after the other: none empty, `size` and `sha256` in all.

    Raises: InputError for an empty file, another size, another digest (hex).
    """
    sizes = {path: path.stat().st_size for path in paths}
    if empty := [str(path) for path, bytes_ in sizes.items() if not bytes_]:
        raise InputError(f"{', '.join(empty)}: empty, 0 bytes; remove it or narrow `files`.")
    found = sum(sizes.values())
    digest = digest_of(paths) if size or sha256 else ""
    if (size and found != size) or (sha256 and digest != sha256.lower()):
        expected = f"{size:,} bytes, " * bool(size) + f"sha256 {sha256 or 'not given'}"
        listing = ", ".join(f"{path} {bytes_:,}" for path, bytes_ in sizes.items())
        raise InputError(
            f"the files are not the expected ones: expected {expected}; "
            f"found {found:,} bytes, sha256 {digest} ({listing})."
        )


def digest_of(paths: Sequence[Path]) -> str:
    """sha256 (hex) of the files' bytes, one file after the other; read once as long as they keep
    their sizes and times."""
    stats = [(path.resolve(), path.stat()) for path in paths]
    return _digest(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@lru_cache(maxsize=256)
def _digest(key: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, *_ in key:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


class Mapped:
    """Numbers in files, one file after the other, of which memory holds what is being read.

    At most `OPEN` files are open at once. They must not change while they are in use.

    Shapes: [n] of `dtype`.
    """

    def __init__(self, paths: Sequence[Path], dtype: np.dtype | type = np.uint8):
        """Takes files that are not empty; reads none."""
        self._paths, self.dtype = list(paths), np.dtype(dtype)
        sizes = [path.stat().st_size // self.dtype.itemsize for path in paths]
        self._starts = np.cumsum([0, *sizes])
        self._part = lru_cache(OPEN)(lambda k: np.asarray(np.memmap(self._paths[k], dtype, "r")))

    def __len__(self) -> int:
        """How many numbers there are in all."""
        return int(self._starts[-1])

    @property
    def digest(self) -> str:
        """sha256 (hex) of the files' bytes."""
        return digest_of(self._paths)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Copies of the `length` numbers from each of `starts` [m] on: [m, length]."""
        out = np.empty((len(starts), length), self.dtype)
        first = np.searchsorted(self._starts, starts, side="right") - 1
        inside = starts + length <= self._starts[first + 1]
        for k in np.unique(first[inside]):
            rows = np.flatnonzero(inside & (first == k))
            views = np.lib.stride_tricks.sliding_window_view(self._part(k), length)
            out[rows] = views[starts[rows] - self._starts[k]]
        for row in np.flatnonzero(~inside):
            out[row] = self._across(int(first[row]), int(starts[row]), length)
        return out

    def _across(self, k: int, start: int, length: int) -> np.ndarray:
        """The numbers from `start` on, which lies in file `k`."""
        pieces, stop = [], start + length
        while self._starts[k] < stop:
            low = self._starts[k]
            pieces.append(self._part(k)[max(start - low, 0) : stop - low])
            k += 1
        return np.concatenate(pieces)


def _matches(pattern: str | Path) -> set[Path]:
    # Absolute, so that two patterns cannot name one file twice; links keep their names.
    found = {Path(os.path.abspath(name)) for name in glob.glob(str(pattern), recursive=True)}
    return {path for path in found if path.is_file()}


def _no_match(pattern: str) -> str:
    folder = Path.cwd()
    for part in Path(pattern).parts:
        if not (folder / part).is_dir():
            break
        folder /= part
    else:
        return f"{pattern!r} is a folder; name the files in it, such as {f'{pattern}/*'!r}."
    names = [p.name + "/" * p.is_dir() for p in sorted(folder.iterdir())]
    near = difflib.get_close_matches(part, names, n=3, cutoff=0.4) or names[:5]
    there = f"near matches: {', '.join(near)}" if near else "it is empty"
    return (
        f"{pattern!r} matches no file; looked in {folder} ({there}) and in the data folder "
        f"{data_folder()}; `jaxdl data list` shows what can be fetched."
    )
