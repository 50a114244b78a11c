"""scikit-learn's bundled digits: 1,797 handwritten digits, no download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from jaxdl.data.base import Transformed
from jaxdl.data.order import permute
from jaxdl.data.source import ArraySource
from jaxdl.data.transform import Scale

BOUNDS = {"train": (0, 1197), "valid": (1197, 1437), "test": (1437, 1797)}


@dataclass(frozen=True)
class Digits(Transformed):
    """8x8 grey digits in ten classes; always the same 1,197 to train, 240 to validate, 360 to test.

    Pixels are 0 to 16 before the transforms and, by default, 0 to 1 after.

    Shapes: image [8, 8, 1] (uint8, float32 once scaled), label [] int32.
    Source: UCI optical recognition of handwritten digits, test part (Alpaydin and Kaynak 1998).
    """

    batch: int = 64
    eval_batch: int = 0
    train_transform: tuple = (Scale(0, 16),)
    eval_transform: tuple = (Scale(0, 16),)

    def train(self) -> ArraySource:
        """The 1,197 examples to learn from."""
        return _splits()["train"]

    def valid(self) -> ArraySource:
        """The 240 examples to choose by."""
        return _splits()["valid"]

    def test(self) -> ArraySource:
        """The 360 examples to report on."""
        return _splits()["test"]


@cache
def _splits() -> dict[str, ArraySource]:
    from sklearn.datasets import load_digits  # a second of import that other data need not pay

    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)
    labels = digits.target.astype(np.int32)
    n = len(labels)
    order = permute(0, 0, np.arange(n), n)
    return {
        split: ArraySource(
            {"image": images[order[low:high]], "label": labels[order[low:high]]},
            sizes={"label": 10},
        )
        for split, (low, high) in BOUNDS.items()
    }
