"""The small arrays of a checkpoint, together in one file.

Orbax spends about two milliseconds of CPU on each array, however small, and a state has hundreds of
scalars, biases and norm scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxdl.core import tree

SMALL = 2**16
"""Bytes; what is larger is Orbax's."""
PLAIN = "biuf"
"""The kinds of dtypes that safetensors holds for numpy; bfloat16 is none of them."""


def split(arrays: Any) -> tuple[dict[str, np.ndarray], dict[str, jax.Array]]:
    """Small leaves by path, copied to the host, and the others by path."""
    small, large = {}, {}
    for path, leaf in tree.flatten(arrays).items():
        ours = leaf.nbytes <= SMALL and leaf.dtype.kind in PLAIN and leaf.is_fully_replicated
        (small if ours else large)[path] = leaf
    # A view of a buffer on CPU would keep the next step from being donated to.
    return {path: np.array(leaf) for path, leaf in jax.device_get(small).items()}, large


def write(path: Path, small: Mapping[str, np.ndarray]) -> None:
    """Writes small leaves."""
    save_file(dict(small), path)


def read(path: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """The small leaves that were written, laid out as in `wanted`."""
    with safe_open(path, "numpy") as file:
        return {path: _placed(file.get_tensor(path), wanted[path]) for path in file.keys()}


def _placed(value: np.ndarray, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """On this process's devices, without asking the others whether they have read the same."""
    return jax.make_array_from_callback(value.shape, wanted.sharding, lambda part: value[part])
