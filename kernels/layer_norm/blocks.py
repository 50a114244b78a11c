"""How large blocks are: what `blocks.json` says, which `jaxdl.kernels.tune` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdl.kernels.blocks import Row, table

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


def kernel(name: str, center: bool) -> str:
    """Its name in the table; `name` is `forward`, `with residual` or `backward`."""
    return f"{'layer' if center else 'rms'} {name}"


def row(platform: str, name: str, center: bool, device: str, features: int) -> Row:
    """That of a kind of device."""
    return table(PATH).find(platform, kernel(name, center), device, features)


def on_tpu(*place: Any) -> TpuBlocks:
    """Those of `row`, of which the platform is known."""
    return TpuBlocks(**row("tpu", *place).blocks)


def on_gpu(*place: Any) -> GpuBlocks:
    """Those of `row`, of which the platform is known."""
    return GpuBlocks(**row("gpu", *place).blocks)
