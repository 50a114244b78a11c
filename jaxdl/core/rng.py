"""Randomness by name: every key is the run's root key folded with what it is for."""

from __future__ import annotations

import zlib

import jax
from jax import Array


def root(seed: int) -> Array:
    """The run's root key; it is stored once and never advanced."""
    return jax.random.key(seed)


def words(key: Array) -> Array:
    """A key as plain integers, uint32 [2]: what a compiled step takes and gives at less cost."""
    return jax.random.key_data(key)


def wrap(words: Array) -> Array:
    """The key of these words."""
    return jax.random.wrap_key_data(words)


def fold(key: Array, *purposes: str | int | Array) -> Array:
    """`key` folded with each purpose in turn: integers as they are, names through crc32.

    Order by convention: step, then purpose, then micro-batch. Python's `hash` differs from process
    to process and is never used.
    """
    for purpose in purposes:
        data = zlib.crc32(purpose.encode()) if isinstance(purpose, str) else purpose
        key = jax.random.fold_in(key, data)
    return key
