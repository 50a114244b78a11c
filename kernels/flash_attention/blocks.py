"""Sizes of blocks for TPUs and CPUs: what `blocks.json` says, which `jaxdl.kernels.tune` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxdl.kernels.blocks import table

PATH = Path(__file__).with_name("blocks.json")


@dataclass(frozen=True)
class TpuBlocks:
    """The most positions of a block here and there, and how many there are visited at a time."""

    here: int
    there: int
    together: int


@dataclass(frozen=True)
class CpuBlocks:
    """The most rows and columns of a block."""

    rows: int
    columns: int


def on_tpu(direction: str, device: str, size: int) -> TpuBlocks:
    """Those of a pass for heads of a size, on a kind of device."""
    return TpuBlocks(**table(PATH).find("tpu", direction, device, size).blocks)


def on_cpu(banded: bool, size: int) -> CpuBlocks:
    """Those of both passes for heads of a size, where positions hide keys or not."""
    row = table(PATH).find("cpu", "some keys" if banded else "all keys", "cpu", size)
    return CpuBlocks(**row.blocks)
