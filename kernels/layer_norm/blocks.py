"""How large blocks are, by device kind: README.md says what they were chosen by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """The most that a block of rows may take, in either direction."""

    forward: int
    backward: int


TPU = {
    "": Blocks(forward=2**20, backward=2**19),
    "TPU v6 lite": Blocks(forward=2**20, backward=2**20),
}
"""Bytes of the block of one array; "" stands for device kinds that are not here."""
GPU = {"": Blocks(forward=2**12, backward=2**12)}
"""Numbers that a program holds."""


def blocks(table: dict[str, Blocks], device: str) -> Blocks:
    """Those of a device kind."""
    return table.get(device, table[""])
