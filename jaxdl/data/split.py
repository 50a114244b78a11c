"""The names of the splits."""

from __future__ import annotations

from jaxdl.core.errors import InputError, suggest

SPLITS = ("train", "valid", "test")


def check_split(split: str) -> None:
    """Raises InputError unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; {suggest(split, SPLITS)}.")
