"""Tokamax, which is installed beside the rest without what it pins:
`pip install --no-deps tokamax jaxtyping wadler-lindig einshape qwix immutabledict pydantic tqdm`.
"""

from __future__ import annotations

from typing import Any

import typeguard


def tokamax() -> Any:
    """The module.

    Raises:
        ImportError: it, or a part of it, is not installed.
    """
    # It pins a typeguard of 2021; by ours, its annotations cannot be read.
    before, typeguard.typechecked = typeguard.typechecked, lambda function: function
    try:
        import tokamax
    finally:
        typeguard.typechecked = before
    return tokamax
