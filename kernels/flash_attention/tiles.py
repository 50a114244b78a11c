"""Which blocks fit a GPU: by its device kind, the kernel and the size of a head.

A block must fit the shared memory that one program may have: 227 KiB on the H100 and its kin, 163
on the A100's, 99 on the smaller ones of both generations (CUDA programming guide, table of compute
capabilities).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Queries and keys of a block, and how a program runs."""

    r: int
    c: int
    warps: int
    stages: int


Tiles = Mapping[str, Mapping[int, Tile]]
"""By kernel, and by the size of a head as padded."""

LARGE: Tiles = {
    # 64 rows at least for each four warps, else products are not of the Hopper kind, or done twice.
    "forward": {64: Tile(128, 64, 4, 3), 128: Tile(128, 128, 8, 2), 256: Tile(128, 64, 8, 2)},
    "dq": {64: Tile(64, 64, 4, 2), 128: Tile(128, 64, 8, 2), 256: Tile(128, 32, 8, 2)},
    "dkv": {64: Tile(64, 64, 4, 2), 128: Tile(32, 128, 8, 3), 256: Tile(32, 128, 8, 2)},
}
MIDDLE: Tiles = {
    "forward": {64: Tile(64, 64, 4, 3), 128: Tile(128, 64, 8, 2), 256: Tile(64, 16, 4, 2)},
    "dq": {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 8, 2), 256: Tile(64, 32, 8, 1)},
    "dkv": {64: Tile(32, 64, 4, 2), 128: Tile(32, 64, 4, 2), 256: Tile(32, 64, 4, 2)},
}
SMALL: Tiles = {
    "forward": {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 4, 2), 256: Tile(64, 16, 4, 2)},
    "dq": {64: Tile(64, 64, 4, 2), 128: Tile(64, 32, 4, 2), 256: Tile(32, 32, 4, 1)},
    "dkv": {64: Tile(32, 64, 4, 2), 128: Tile(32, 64, 4, 2), 256: Tile(16, 64, 4, 1)},
}
KINDS = {"H100": LARGE, "H200": LARGE, "H20": LARGE, "B200": LARGE} | {
    "A100": MIDDLE,
    "A800": MIDDLE,
    "A30": MIDDLE,
}
"""By a part of what JAX calls the device; all others take the small ones."""


SINGLE: Tiles = {
    # Each operand is held as two numbers of tf32.
    "forward": {64: Tile(64, 32, 4, 1), 128: Tile(64, 16, 4, 1)},
    "dq": {64: Tile(64, 32, 4, 1), 128: Tile(16, 16, 4, 1)},
    "dkv": {64: Tile(16, 64, 4, 1), 128: Tile(16, 32, 8, 1)},
}
"""Of float32, on all devices."""


def tiles_of(device: str, itemsize: int) -> Tiles:
    """Those of a device kind, such as "NVIDIA H100 80GB HBM3", and of numbers of 2 or 4 bytes."""
    if itemsize > 2:
        return SINGLE
    return next((tiles for name, tiles in KINDS.items() if name in device), SMALL)


def shared_bytes(kernel: str, tile: Tile, size: int, itemsize: int) -> int:
    """Shared memory of a program: what it keeps once, what it walks over for every stage."""
    kept, walked = (tile.c, tile.r) if kernel == "dkv" else (tile.r, tile.c)
    arrays = 1 if kernel == "forward" else 2
    return (arrays * kept + 2 * tile.stages * walked) * size * itemsize
