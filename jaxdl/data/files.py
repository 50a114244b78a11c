"""Finding and reading local data files."""

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


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files that match any of the glob patterns (`**` included), each once, sorted by name.

    Raises: InputError for a pattern without a match, with the folder looked in and near matches.
    """
    found = set()
    for pattern in patterns:
        # Absolute, so that two patterns cannot name one file twice; links keep their names.
        matches = {Path(os.path.abspath(name)) for name in glob.glob(pattern, recursive=True)}
        files = {path for path in matches if path.is_file()}
        if not files:
            raise InputError(_no_match(pattern))
        found |= files
    if not found:
        raise InputError("no files were named; give at least one pattern, such as 'data/*.txt'.")
    return sorted(found)


def read_bytes(paths: Sequence[Path], size: int = 0, sha256: str = "") -> np.ndarray:
    """The files' bytes, one file after the other: uint8 [n], read once and not writable.

    `size` (bytes) and `sha256` (hex) of the whole are checked where they are given.

    Raises: InputError for an empty file, another size, another digest.
    """
    stats = {path: path.stat() for path in paths}
    if empty := [str(path) for path, stat in stats.items() if not stat.st_size]:
        raise InputError(f"{', '.join(empty)}: empty, 0 bytes; remove it or narrow `files`.")
    found = sum(stat.st_size for stat in stats.values())
    listing = ", ".join(f"{path} {stat.st_size:,}" for path, stat in stats.items())
    key = tuple((p.resolve(), stat.st_size, stat.st_mtime_ns) for p, stat in stats.items())
    text = _concatenated(key)
    digest = hashlib.sha256(text).hexdigest() if size or sha256 else ""
    if (size and found != size) or (sha256 and digest != sha256.lower()):
        expected = f"{size:,} bytes, " * bool(size) + f"sha256 {sha256 or 'not given'}"
        raise InputError(
            f"the files are not the expected ones: expected {expected}; "
            f"found {found:,} bytes, sha256 {digest} ({listing})."
        )
    return text


@lru_cache(maxsize=1)
def _concatenated(key: tuple[tuple[Path, int, int], ...]) -> np.ndarray:
    """One read serves all splits; size and time in the key notice a file that is edited."""
    text = np.concatenate([np.fromfile(path, np.uint8) for path, *_ in key])
    text.setflags(write=False)
    return text


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
    return f"{pattern!r} matches no file; looked in {folder}; {there}."
