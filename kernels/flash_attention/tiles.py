"""Which blocks fit a GPU: by its device kind, the kernel and the size of a head (`blocks.json`).

A block must fit the shared memory that one program may have: 227 KiB on the H100 and its kin, 163
on the A100's, 99 on the smaller ones of both generations (CUDA programming guide, table of compute
capabilities). For each four warps it has 64 rows of logits at least, else products are not of the
Hopper kind, or done twice. Of float32 each operand is held as two numbers of tf32.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxdl.kernels.blocks import table
from jaxdl.kernels.flash_attention.blocks import PATH


@dataclass(frozen=True)
class Tile:
    """Queries and keys of a block, and how a program runs."""

    r: int
    c: int
    warps: int
    stages: int


def named(kernel: str, itemsize: int) -> str:
    """What the table calls a kernel for numbers of so many bytes."""
    return kernel if itemsize <= 2 else f"{kernel} float32"


def tile_of(kernel: str, device: str, size: int, itemsize: int) -> Tile:
    """That of a device kind, such as "NVIDIA H100 80GB HBM3", and of a size of heads."""
    return Tile(**table(PATH).find("gpu", named(kernel, itemsize), device, size).blocks)


def shared_bytes(kernel: str, tile: Tile, size: int, itemsize: int) -> int:
    """Shared memory of a program: what it keeps once, what it walks over for every stage."""
    kept, walked = (tile.c, tile.r) if kernel == "dkv" else (tile.r, tile.c)
    arrays = 1 if kernel == "forward" else 2
    return (arrays * kept + 2 * tile.stages * walked) * size * itemsize
