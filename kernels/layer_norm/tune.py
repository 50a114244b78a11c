"""What `jaxdl.kernels.tune` chooses from."""

from __future__ import annotations

from functools import partial
from itertools import product

from jaxdl.kernels.layer_norm.blocks import kernel
from jaxdl.kernels.layer_norm.programs import SHAPES
from jaxdl.kernels.measure import Blocks, Case

PROGRAM = "jaxdl.kernels.layer_norm.programs:in_blocks"
BYTES = 2**20, 2**19, 2**21
NUMBERS = 2**12, 2**11, 2**13, 2**14
REGISTERS = 2**15
"""Numbers of float32 that a TPU works on at a time without moving many to memory."""
WHOLE = 2**17
"""More columns than rows have."""
PARTS = (32, 512), (64, 256)
"""Rows and columns of a part."""
TILE = 16
"""Rows of one of bfloat16."""


def cases(platform: str, device: str) -> list[Case]:
    """Those of one platform."""
    del device
    made = {"tpu": _tpu, "gpu": _gpu}.get(platform)
    pairs = product((True, False), ("forward", "backward"), SHAPES)
    return [made(*pair) for pair in pairs] if made else []


def _tpu(center: bool, direction: str, shape: tuple[int, int]) -> Case:
    whole = max(REGISTERS // shape[1] // TILE, 1) * TILE, WHOLE
    some = [
        {"bytes": size, "rows": rows, "columns": columns}
        for size, (rows, columns) in product(BYTES, (whole, *PARTS))
    ]
    return Case(
        *("tpu", kernel(direction, center), shape[1], _text(shape), tuple(some), PROGRAM),
        ("tpu", "layer" if center else "rms", direction, *shape),
        memory=partial(_memory, direction, shape[1]),
        shape=lambda blocks: (blocks["rows"], blocks["columns"]),
    )


def _gpu(center: bool, direction: str, shape: tuple[int, int]) -> Case:
    return Case(
        *("gpu", kernel(direction, center), shape[1], _text(shape)),
        *(tuple({"numbers": n} for n in NUMBERS), PROGRAM),
        ("gpu", "layer" if center else "rms", direction, *shape),
        traffic=partial(_traffic, shape),
    )


def _text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}, bfloat16"


def _memory(direction: str, features: int, blocks: Blocks) -> int:
    """Two buffers of each array and of a weight."""
    arrays = 2 if direction == "forward" else 3
    return 2 * (arrays * blocks["bytes"] + 8 * 4 * features)


def _traffic(shape: tuple[int, int], blocks: Blocks) -> float:
    """The weight again for each block of rows."""
    rows = max(blocks["numbers"] // shape[1], 1)
    return shape[0] * shape[1] * 4 + shape[0] / rows * 4 * shape[1]
