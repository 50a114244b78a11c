"""How large blocks are: what `blocks.json` says, which `python -m jaxdl.kernels.tune` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxdl.kernels.blocks import table

PATH = Path(__file__).with_name("blocks.json")


@dataclass(frozen=True)
class TpuBlocks:
    """A program has whole rows, some of which it works on at a time, and some columns of these."""

    bytes: int
    """Of the block of one array, at most."""
    rows: int
    columns: int
    """More than a row has: all, which are then read once."""


@dataclass(frozen=True)
class GpuBlocks:
    """A program has whole rows, all at a time."""

    numbers: int
    """In registers, at most, if a row is not longer."""


def kernel(direction: str, center: bool) -> str:
    """Its name in the table."""
    return f"{'layer' if center else 'rms'} {direction}"


def tpu_blocks(direction: str, center: bool, device: str, features: int) -> TpuBlocks:
    """Those for a kind of device."""
    row = table(PATH).find("tpu", kernel(direction, center), device, features)
    return TpuBlocks(**row.blocks)


def gpu_blocks(direction: str, center: bool, device: str, features: int) -> GpuBlocks:
    """Those for a kind of device."""
    row = table(PATH).find("gpu", kernel(direction, center), device, features)
    return GpuBlocks(**row.blocks)
