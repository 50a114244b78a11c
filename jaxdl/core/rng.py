"""Randomness by name: every key is the run's root key folded with what it is for."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jax import Array


def root(seed: int | Array) -> Array:
    """The run's root key; it is stored once and never advanced."""
    return jax.random.key(seed)


def words(key: Array) -> Array:
    """A key as plain integers, int32 [2]: what a compiled step takes and gives at less cost."""
    return jax.lax.bitcast_convert_type(jax.random.key_data(key), jnp.int32)


def wrap(words: Array) -> Array:
    """The key of these words."""
    return jax.random.wrap_key_data(jax.lax.bitcast_convert_type(words, jnp.uint32))


def fold(key: Array, *purposes: str | int | Array) -> Array:
    """`key` folded with each purpose in turn: integers as they are, names through crc32.

    Order by convention: step, then purpose, then micro-batch. Python's `hash` differs from process
    to process and is never used.
    """
    for purpose in purposes:
        data = zlib.crc32(purpose.encode()) if isinstance(purpose, str) else purpose
        key = jax.random.fold_in(key, data)
    return key
