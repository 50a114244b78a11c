"""What `jaxdl.kernels.tune` chooses from."""

from __future__ import annotations

from functools import partial
from itertools import product

from jaxdl.kernels.layer_norm.programs import NORMS, PASSES, SHAPES
from jaxdl.kernels.measure import Blocks, Case

MODULE = "jaxdl.kernels.layer_norm.programs:"
BYTES = {True: (2**20, 2**21), False: (2**20, 2**19)}
"""For a v6e, and for others: larger ones overflow there, or take longer here."""
NUMBERS = 2**12, 2**11, 2**13, 2**14
REGISTERS = 2**15
"""Numbers of float32 that a TPU works on at a time without moving many to memory."""
WHOLE = 2**17
"""More columns than rows have."""
PART = 64, 256
"""Rows and columns of a part, where a row is not worked on as a whole."""
TILE = 16
"""Rows of one of bfloat16."""


def cases(platform: str, device: str) -> list[Case]:
    """Those of one platform."""
    places = list(product(NORMS, PASSES, SHAPES))
    if platform == "tpu":
        return [_tpu(*place, BYTES["v6" in device]) for place in places]
    return [_gpu(*place) for place in places] if platform == "gpu" else []


def _tpu(norm: str, name: str, shape: tuple[int, int], sizes: tuple[int, ...]) -> Case:
    whole = max(REGISTERS // shape[1] // TILE, 1) * TILE, WHOLE
    some = [
        {"bytes": size, "rows": rows, "columns": columns}
        for size, (rows, columns) in product(sizes, (whole, PART))
    ]
    return Case(
        *("tpu", f"{norm} {name}", shape[1], _text(shape), tuple(some), MODULE + "in_blocks"),
        ("tpu", norm, name, *shape),
        peer=True,
        memory=partial(_memory, {"forward": 2, "with residual": 4, "backward": 3}[name], shape[1]),
        shape=lambda blocks: (blocks["rows"], blocks["columns"]),
    )


def _gpu(norm: str, name: str, shape: tuple[int, int]) -> Case:
    return Case(
        *("gpu", f"{norm} {name}", shape[1], _text(shape)),
        *(tuple({"numbers": n} for n in NUMBERS), MODULE + "in_blocks"),
        ("gpu", norm, name, *shape),
        only="norm_",
        traffic=partial(_traffic, shape),
    )


def _text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}, bfloat16"


def _memory(arrays: int, features: int, blocks: Blocks) -> int:
    """Two buffers of each array and of a weight."""
    return 2 * (arrays * blocks["bytes"] + 8 * 4 * features)


def _traffic(shape: tuple[int, int], blocks: Blocks) -> float:
    """The weight again for each block of rows."""
    rows = max(blocks["numbers"] // shape[1], 1)
    return shape[0] * shape[1] * 4 + shape[0] / rows * 4 * shape[1]
