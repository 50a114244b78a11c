"""How many numbers a block holds, by device kind: README.md says what they were chosen by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """Rows times padded features of one block, in either direction."""

    forward: int
    backward: int


TPU = {"": Blocks(forward=2**19, backward=2**18)}
"""By `jax.Device.device_kind`; "" stands for those that are not here."""
GPU = {"": Blocks(forward=2**12, backward=2**12)}


def blocks(table: dict[str, Blocks], device: str) -> Blocks:
    """Those of a device kind."""
    return table.get(device, table[""])
