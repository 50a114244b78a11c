"""Residual networks (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError, suggest
from jaxdl.models.weights import reader
from jaxdl.nn import batch_norm, constrain, conv, dense

IMAGE = ("batch", None, None, "act_conv")
STEMS = {"cifar": (3, 1), "imagenet": (7, 2)}
"""Kernel and stride of the first convolution."""


def residual(block: nn.Module, x: Array, y: Array, train: bool) -> Array:
    """`relu(y + shortcut(x))`: the identity, or a 1x1 convolution where the shapes differ.

    To be called in the compact method of `block`, which has the fields `stride` and `skip`.
    """
    if not block.skip:
        return constrain(nn.relu(y), IMAGE)
    if x.shape != y.shape:
        x = conv(y.shape[-1], 1, block.stride, bias=False, name="shortcut")(x)
        x = batch_norm(train, name="shortcut_norm")(x)
    return constrain(nn.relu(y + x), IMAGE)


class BasicBlock(nn.Module):
    """`relu(F(x) + shortcut(x))`, F = conv-bn-relu-conv-bn (section 3.3, shortcut B).

    `zero_init` starts F at 0 (Goyal et al. 2017, arXiv:1706.02677, section 5.1); without `skip` it
    is the plain network's block, `relu(F(x))`.

    Shapes: x [B, H, W, C] -> [B, H / stride, W / stride, width].
    """

    width: int
    stride: int = 1
    zero_init: bool = False
    skip: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Features."""
        y = conv(self.width, 3, self.stride, bias=False, name="conv_1")(x)
        y = nn.relu(batch_norm(train, name="norm_1")(y))
        y = conv(self.width, 3, bias=False, name="conv_2")(y)
        y = batch_norm(train, zero=self.zero_init, name="norm_2")(y)
        return residual(self, x, y, train)


class Bottleneck(nn.Module):
    """`relu(F(x) + shortcut(x))`, F = 1x1, 3x3 and 1x1 convolutions, the last four times as wide.

    Figure 5, with the stride in the 3x3 convolution (Goyal et al. 2017, section 5.1). `zero_init`
    and `skip` as in `BasicBlock`.

    Shapes: x [B, H, W, C] -> [B, H / stride, W / stride, 4 width].
    """

    width: int
    stride: int = 1
    zero_init: bool = False
    skip: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Features."""
        y = conv(self.width, 1, bias=False, name="conv_1")(x)
        y = nn.relu(batch_norm(train, name="norm_1")(y))
        y = conv(self.width, 3, self.stride, bias=False, name="conv_2")(y)
        y = nn.relu(batch_norm(train, name="norm_2")(y))
        y = conv(4 * self.width, 1, bias=False, name="conv_3")(y)
        y = batch_norm(train, zero=self.zero_init, name="norm_3")(y)
        return residual(self, x, y, train)


class Stem(nn.Module):
    """The first layers: 3x3 for CIFAR, 7x7 and two halvings for ImageNet (table 1, section 4.2).

    Shapes: x [B, H, W, 3] -> [B, H, W, width] or [B, H / 4, W / 4, width].
    """

    kind: str
    width: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Features."""
        if self.kind not in STEMS:
            raise InputError(f"unknown stem {self.kind!r}; {suggest(self.kind, STEMS)}.")
        kernel, stride = STEMS[self.kind]
        x = conv(self.width, kernel, stride, bias=False, name="conv")(x)
        x = nn.relu(batch_norm(train, name="norm")(x))
        if self.kind == "imagenet":
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return constrain(x, IMAGE)


class ResNet(nn.Module):
    """A stem, stages of blocks that halve the image and double the width, mean, logits (table 1).

    The default is ResNet-18: 11,173,962 parameters, and 11,689,512 with `stem="imagenet"` and 1000
    classes. `block` is a class like `BasicBlock`; `skip=False` is the plain twin.

    Shapes: x [B, H, W, C] -> logits [B, classes].
    """

    stages: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem: str = "cifar"
    classes: int = 10
    zero_init: bool = False
    block: Callable[..., nn.Module] = BasicBlock
    skip: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits."""
        x = Stem(self.stem, self.width, name="stem")(x, train=train)
        for stage, depth in enumerate(self.stages):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                block = self.block(
                    self.width * 2**stage,
                    stride,
                    zero_init=self.zero_init,
                    skip=self.skip,
                    name=f"stage_{stage}_block_{i}",
                )
                x = block(x, train=train)
        logits = dense(self.classes, ("embed", "classes"), name="head")(x.mean((1, 2)))
        return constrain(logits, ("batch", "act_classes"))


THEIRS = re.compile(
    r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:shortcut|layer\.(\d+))(?=\.convolution)"
)
"""How `transformers` names a convolution and its norm: stage, block, and place in the block."""


def from_huggingface(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of `ResNet` from the state dict of a `ResNetForImageClassification`, as numpy.

    They suit `stem="imagenet"`; stages, width, block and classes are those of that model.

    Raises:
        InputError: a weight is missing.
    """
    get = reader(weights)
    params, averages = {}, {}

    def read(theirs: str, block: str, conv: str, norm: str) -> None:
        kernel = get(f"{theirs}.convolution.weight").transpose(2, 3, 1, 0)
        scale, bias, mean, var = (
            get(f"{theirs}.normalization.{name}")
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        new = {conv: {"kernel": kernel}, norm: {"scale": scale, "bias": bias}}
        params.setdefault(block, {}).update(new)
        averages.setdefault(block, {})[norm] = {"mean": mean, "var": var}

    read("resnet.embedder.embedder", "stem", "conv", "norm")
    for found in filter(None, map(THEIRS.match, weights)):
        stage, i, place = found.groups()
        name = f"conv_{int(place) + 1}" if place else "shortcut"
        norm = f"norm_{int(place) + 1}" if place else "shortcut_norm"
        read(found.group(), f"stage_{stage}_block_{i}", name, norm)
    params["head"] = {"kernel": get("classifier.1.weight").T, "bias": get("classifier.1.bias")}
    return {"params": params, "batch_stats": averages}
