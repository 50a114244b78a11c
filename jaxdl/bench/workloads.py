"""The training steps that are measured: the same shapes, and so the same FLOPs, for every peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

LR = 1e-3
DECAY = 1e-4
LINE_BATCH = 8


class OfImages:
    """What the workloads on images share."""

    unit: ClassVar[str] = "examples"

    @property
    def units(self) -> int:
        """Examples per step."""
        return self.batch

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 and labels int32 [batch]."""
        return _images(self.batch, self.size, self.classes)


class OfTokens:
    """What the workloads on tokens share."""

    unit: ClassVar[str] = "tokens"

    @property
    def units(self) -> int:
        """Tokens per step."""
        return self.batch * self.seq

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and next tokens, int32 [batch, seq]."""
        return _tokens(self.batch, self.seq, self.vocab)


@dataclass(frozen=True)
class ResNet(OfImages):
    """A residual network on random images [batch, size, size, 3]."""

    family: ClassVar[str] = "resnet"

    block: str
    """`basic` or `bottleneck`."""
    stem: str
    """`cifar` (3x3) or `imagenet` (7x7, stride 2, pooling)."""
    stages: tuple[int, ...]
    size: int
    classes: int
    batch: int
    width: int = 64


@dataclass(frozen=True)
class ViT(OfImages):
    """A vision transformer with a class token on random images [batch, size, size, 3]."""

    family: ClassVar[str] = "vit"

    size: int
    patch: int
    width: int
    heads: int
    depth: int
    classes: int
    batch: int

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.size // self.patch) ** 2 + 1


@dataclass(frozen=True)
class GPT(OfTokens):
    """A GPT-2 with tied embedding on random tokens [batch, seq]."""

    family: ClassVar[str] = "gpt"

    vocab: int
    width: int
    heads: int
    depth: int
    seq: int
    batch: int


@dataclass(frozen=True)
class LSTM(OfTokens):
    """An embedding, stacked LSTMs of the same width and a linear layer, on random tokens."""

    family: ClassVar[str] = "lstm"

    vocab: int
    width: int
    depth: int
    seq: int
    batch: int


Workload = ResNet | ViT | GPT | LSTM
WORKLOADS: dict[str, Workload] = {
    "resnet18": ResNet("basic", "cifar", (2, 2, 2, 2), size=32, classes=10, batch=64),
    "resnet50": ResNet("bottleneck", "imagenet", (3, 4, 6, 3), size=64, classes=1000, batch=16),
    "vit": ViT(size=64, patch=8, width=192, heads=3, depth=12, classes=100, batch=32),
    "gpt": GPT(vocab=8192, width=384, heads=6, depth=6, seq=256, batch=8),
    "lstm": LSTM(vocab=128, width=256, depth=2, seq=128, batch=32),
}


def of(family: str, **shape: Any) -> Workload:
    """The workload that `{"family": work.family, **asdict(work)}` describes, also after JSON."""
    kinds = {kind.family: kind for kind in (ResNet, ViT, GPT, LSTM)}
    values = {name: tuple(x) if isinstance(x, list) else x for name, x in shape.items()}
    return kinds[family](**values)


def _images(batch: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, size, size, 3), dtype=np.float32)
    return images, rng.integers(0, classes, batch, dtype=np.int32)


def _tokens(batch: int, seq: int, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    window = np.random.default_rng(0).integers(0, vocab, (batch, seq + 1), dtype=np.int32)
    return window[:, :-1].copy(), window[:, 1:].copy()


def line(batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Random x [n, 8] and its sums y [n, 1], float32, for so many batches of `LINE_BATCH`."""
    x = np.random.default_rng(0).standard_normal((batches * LINE_BATCH, 8), dtype=np.float32)
    return x, x.sum(axis=1, keepdims=True)
