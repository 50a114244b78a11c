"""The counter-based hash behind every random number of the host side."""

from __future__ import annotations

import zlib

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
"""2**64 / golden ratio: the increment of splitmix64."""


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that flips half of the bits for each flipped bit.

    Source: splitmix64's finaliser (Steele, Lea and Flood 2014; constants of Stafford's variant 13).
    """
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


def hashed(*words: int | str | np.ndarray) -> np.ndarray:
    """uint64 hash of the words, which broadcast; strings count by their crc32."""
    state = np.uint64(0)
    # numpy warns when a scalar wraps around, never when an array does; here wrapping is the point.
    with np.errstate(over="ignore"):
        for word in words:
            number = zlib.crc32(word.encode()) if isinstance(word, str) else word
            state = mix((state ^ np.asarray(number).astype(np.uint64)) + GOLDEN)
    return state
