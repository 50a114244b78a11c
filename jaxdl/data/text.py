"""Language modelling on local text files, of which memory holds only the windows in use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import jax
import numpy as np

from jaxdl.core.errors import InputError
from jaxdl.core.source import Plan, Transform
from jaxdl.data.files import Mapped, check_content, find_files
from jaxdl.data.split import check_split
from jaxdl.data.tokens import BytePairs, Bytes


@dataclass(frozen=True)
class Text:
    """Windows over the tokens of `files`, which are concatenated in sorted order.

    `files` are glob patterns from the working directory or, where nothing there matches, from the
    data folder ($JAXDL_DATA, or `data`). `tokens` are `Bytes()` or `BytePairs()`. The test split is
    the tail of the tokens, the valid split lies before it; windows are cut inside a split, so none
    crosses. A fraction of 0 means no such split. `size` (bytes) and `sha256` (hex), when given, are
    what the concatenation must have: a truncated or changed file is refused.

    Shapes: tokens [seq + 1] int32: inputs are tokens[:-1], targets tokens[1:].
    Raises: InputError, from the splits, for missing, empty, changed or too short files.
    """

    files: tuple[str, ...]
    tokens: Bytes | BytePairs = field(default_factory=Bytes)
    seq: int = 128
    batch: int = 32
    eval_batch: int = 0
    valid_fraction: float = 0.05
    test_fraction: float = 0.05
    size: int = 0
    sha256: str = ""

    def __post_init__(self):
        """Checks what needs no file."""
        if isinstance(self.files, str):
            raise InputError(f"files={self.files!r} must be a tuple: ({self.files!r},).")
        if self.seq < 1:
            raise InputError(f"seq={self.seq} must be at least 1.")
        fractions = self.valid_fraction, self.test_fraction
        if min(fractions) < 0 or sum(fractions) >= 1:
            raise InputError(
                f"valid_fraction={self.valid_fraction} and test_fraction={self.test_fraction} must "
                "not be negative and must leave something to train on."
            )

    def train(self) -> Windows:
        """Windows of the head of the text."""
        return self._windows("train")

    def valid(self) -> Windows | None:
        """Windows of the part between head and tail."""
        return self._windows("valid") if self.valid_fraction else None

    def test(self) -> Windows | None:
        """Windows of the tail of the text."""
        return self._windows("test") if self.test_fraction else None

    def plan(self, split: str) -> Plan | None:
        """None: the default shuffle."""
        check_split(split)
        return None

    def transform(self, split: str) -> Transform | None:
        """None: tokens are used as they are."""
        check_split(split)
        return None

    def _windows(self, split: str) -> Windows:
        paths = find_files(self.files)
        check_content(paths, self.size, self.sha256)
        text = self.tokens.of_files(paths)
        test = len(text) - int(len(text) * self.test_fraction)
        valid = test - int(len(text) * self.valid_fraction)
        low, high = {"train": (0, valid), "valid": (valid, test), "test": (test, len(text))}[split]
        if (length := high - low) <= self.seq:
            fit = f"the largest seq that fits is {length - 1}" if length > 1 else "none fits"
            raise InputError(
                f"the {split} split of {', '.join(self.files)} has {length:,} of {len(text):,} "
                f"tokens; seq={self.seq} needs {self.seq + 1:,}; {fit}."
            )
        return Windows(text, low, high, self.seq, self.tokens.size)


class Windows:
    """Windows of seq + 1 tokens at stride seq: each token after the first is a target exactly once.

    Up to seq - 1 tokens at the end, which fill no window, are left out.

    Shapes: text [n], of which tokens low to high - 1 count -> tokens [seq + 1] int32.
    """

    def __init__(self, text: Mapped, low: int, high: int, seq: int, size: int):
        """`size` is that of the vocabulary."""
        self.text, self.low, self.high, self.seq = text, low, high, seq
        self.spec = {"tokens": jax.ShapeDtypeStruct((seq + 1,), np.int32)}
        self.sizes = {"tokens": size}

    def __len__(self) -> int:
        """The number of windows."""
        return (self.high - self.low - 1) // self.seq

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Window `i`."""
        return {"tokens": self.take(np.array([i]))["tokens"][0]}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Windows `indices` [m], stacked: tokens [m, seq + 1]."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"windows {indices.min()} to {indices.max()} of {len(self)}")
        windows = self.text.windows(self.low + indices * self.seq, self.seq + 1)
        return {"tokens": windows.astype(np.int32)}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the text, the range and seq."""
        content = f"{self.text.digest} {self.low} {self.high} seq={self.seq}"
        return hashlib.sha256(content.encode()).hexdigest()
