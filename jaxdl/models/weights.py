"""Reading weights that other libraries have stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from jaxdl.core.errors import InputError, suggest


def reader(weights: Mapping[str, Any]) -> Callable[[str], np.ndarray]:
    """The weight of a name, as a numpy array; a missing one raises an InputError with the nearest.

    `weights` are arrays or CPU tensors by name, as a state dict has them; so does one that numpy
    cannot hold, such as a tensor of bfloat16 or on a GPU.
    """

    def get(name: str) -> np.ndarray:
        if name not in weights:
            near = suggest(name, get_close_matches(name, weights))
            raise InputError(f"the weights lack {name!r}; {near}.")
        try:
            return np.asarray(weights[name])
        except (TypeError, RuntimeError) as error:
            said = str(error).rstrip(".")
            raise InputError(f"{name!r}: {said}; bring the weights to float32 on CPU.") from None

    return get
