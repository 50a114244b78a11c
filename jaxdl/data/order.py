"""The order of examples: a pure function of (seed, example number), with no table and no state."""

from __future__ import annotations

import numpy as np

from jaxdl.core.errors import InputError
from jaxdl.core.source import Plan
from jaxdl.data.hashing import GOLDEN, hashed, mix

ROUNDS = 10
"""Four do for large n (Luby and Rackoff 1988); at n = 32, 100,000 epochs tell 6 from uniform."""
TINY = 16
"""Halves of a bit or two mix slowly (12 rounds are still uneven at n = 5), so these are sorted."""


# Own code, where numpy, jax and grain all shuffle: resuming promises the same order for ever, so it
# must not move with a library's version, and it must answer for any index at any n without a table.
def permute(seed: int, epoch: np.ndarray, i: np.ndarray, n: int) -> np.ndarray:
    """Where position `i` of `epoch` lands in that epoch's pseudo-random permutation of range(n).

    A Feistel network over the bits that hold n, walked along its cycles until it lands below n (in
    under two steps on average): a bijection, in O(m) time and memory. Not for cryptography. Up to
    n = 16 a sort of random keys takes its place.

    Shapes: epoch [m] or scalar, i [m] int64 in [0, n) -> [m] int64.
    Raises: InputError when n < 1.
    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 3.
    """
    if n < 1:
        raise InputError(f"n={n}: there is nothing to put in order.")
    i = np.asarray(i)
    key = np.broadcast_to(hashed(seed, "order", epoch), i.shape)
    if n <= TINY:
        orders = np.argsort(hashed(key[:, None], np.arange(n)), axis=1)
        return orders[np.arange(len(i)), i]
    bits = (n - 1).bit_length()
    x = _feistel(i.astype(np.uint64), key, bits)
    while (outside := x >= n).any():
        x[outside] = _feistel(x[outside], key[outside], bits)
    return x.astype(np.int64)


def _feistel(x: np.ndarray, key: np.ndarray, bits: int) -> np.ndarray:
    """A keyed bijection of the integers below 2**bits; odd bits make unequal halves."""
    high = bits // 2
    low = bits - high
    left, right = x >> low, x & ((1 << low) - 1)
    for r in range(0, ROUNDS, 2):
        left = left ^ _scramble(right, key, r) >> (64 - high)
        right = right ^ _scramble(left, key, r + 1) >> (64 - low)
    return left << low | right


def _scramble(half: np.ndarray, key: np.ndarray, r: int) -> np.ndarray:
    return mix(half ^ (key + r * GOLDEN % 2**64))


def shuffled(n: int) -> Plan:
    """A plan that visits each of n examples once per epoch, in a new order each epoch."""

    def plan(seed: int, e: np.ndarray) -> np.ndarray:
        return permute(seed, e // n, e % n, n)

    return plan


def sequential(n: int) -> Plan:
    """A plan that visits n examples in their own order, epoch after epoch."""

    def plan(seed: int, e: np.ndarray) -> np.ndarray:
        return e % n

    return plan
