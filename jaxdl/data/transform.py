"""Transforms of stacked examples on the host, each a frozen value fit for an experiment's config.

A transform is pure and treats every example alone: which others share its batch depends on the
number of processes. What mixes examples (mixup, cutmix) belongs on the device, in the task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxdl.core.errors import InputError, suggest
from jaxdl.core.source import Transform
from jaxdl.data.draws import Draws

IMAGE = ("image",)


@dataclass(frozen=True)
class Chain:
    """Applies `parts` in order; each draws its own random numbers, also when it occurs twice."""

    parts: tuple[Transform, ...] = ()

    def __call__(self, examples: dict, rng: Draws) -> dict:
        """The examples after the last part."""
        for i, part in enumerate(self.parts):
            examples = part(examples, rng.fold(i))
        return examples


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [to_low, to_high] linearly, e.g. `Scale(0, 255)` to [0, 1]; float32.

    Shapes: any.
    """

    low: float
    high: float
    to_low: float = 0.0
    to_high: float = 1.0
    leaves: tuple[str, ...] = IMAGE

    def __post_init__(self):
        """Refuses an empty range."""
        if self.low == self.high:
            raise InputError(f"Scale: low={self.low} and high={self.high} must differ.")

    def __call__(self, examples: dict, rng: Draws) -> dict:
        """The examples with their leaves scaled."""

        def scale(x: np.ndarray) -> np.ndarray:
            unit = (x.astype(np.float32) - self.low) / (self.high - self.low)
            return unit * (self.to_high - self.to_low) + self.to_low

        return _replace(examples, self.leaves, scale)


@dataclass(frozen=True)
class Normalize:
    """`(x - mean) / std` in the input's unit, float32; scalars, or tuples with one per channel.

    Shapes: [n, ..., C] with tuples of length C.
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    leaves: tuple[str, ...] = IMAGE

    def __post_init__(self):
        """Refuses a std that is not positive and tuples of different lengths."""
        if not np.all(np.asarray(self.std) > 0):
            raise InputError(f"Normalize: std={self.std} must be positive.")
        if len({np.size(s) for s in (self.mean, self.std) if np.ndim(s)}) > 1:
            raise InputError(f"Normalize: mean={self.mean} and std={self.std} differ in length.")

    def __call__(self, examples: dict, rng: Draws) -> dict:
        """The examples with their leaves normalised."""
        mean, std = np.float32(self.mean), np.float32(self.std)

        def normalize(x: np.ndarray) -> np.ndarray:
            for name, s in (("mean", mean), ("std", std)):
                if np.ndim(s) and np.size(s) != x.shape[-1]:
                    raise InputError(f"Normalize: {np.size(s)} {name}s, but x is {list(x.shape)}.")
            return (x.astype(np.float32) - mean) / std

        return _replace(examples, self.leaves, normalize)


@dataclass(frozen=True)
class Crop:
    """A random window of the image's size after `pad` zeros on each side; `leaves` move together.

    Zero is black only before an image is normalised, so crop first.

    Shapes: [n, H, W] or [n, H, W, C], kept.
    """

    pad: int
    leaves: tuple[str, ...] = IMAGE

    def __post_init__(self):
        """Refuses a negative padding."""
        if self.pad < 0:
            raise InputError(f"Crop: pad={self.pad} must not be negative.")

    def __call__(self, examples: dict, rng: Draws) -> dict:
        """The examples with their leaves shifted by up to `pad` pixels each way."""
        top, left = rng.integers("crop", 0, 2 * self.pad + 1, (2,)).T

        def crop(x: np.ndarray) -> np.ndarray:
            n, height, width = x.shape[:3]
            padded = np.pad(x, [(0, 0), (self.pad,) * 2, (self.pad,) * 2] + [(0, 0)] * (x.ndim - 3))
            rows = (top[:, None] + np.arange(height))[:, :, None]
            columns = (left[:, None] + np.arange(width))[:, None, :]
            return padded[np.arange(n)[:, None, None], rows, columns]

        return _replace(examples, self.leaves, crop)


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right with probability `p`; `leaves` flip together.

    It changes what digits and text mean: leave it out where left and right matter.

    Shapes: [n, H, W] or [n, H, W, C], kept.
    """

    p: float = 0.5
    leaves: tuple[str, ...] = IMAGE

    def __post_init__(self):
        """Refuses what is not a probability."""
        if not 0 <= self.p <= 1:
            raise InputError(f"Flip: p={self.p} must lie in [0, 1].")

    def __call__(self, examples: dict, rng: Draws) -> dict:
        """The examples with some of their leaves mirrored."""
        chosen = rng.uniform("flip") < self.p

        def flip(x: np.ndarray) -> np.ndarray:
            return np.where(chosen.reshape((-1,) + (1,) * (x.ndim - 1)), x[:, :, ::-1], x)

        return _replace(examples, self.leaves, flip)


def _replace(examples: dict, leaves: tuple[str, ...], change: Callable) -> dict:
    """A copy of the examples in which `change` has been applied to `leaves`."""
    for name in leaves:
        if name not in examples:
            raise InputError(f"the examples have no leaf {name!r}; {suggest(name, examples)}.")
    return examples | {name: change(examples[name]) for name in leaves}
