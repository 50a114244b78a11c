"""Residual networks (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError, suggest
from jaxdl.nn import batch_norm, constrain, conv, dense

IMAGE = ("batch", None, None, "act_conv")
STEMS = {"cifar": (3, 1), "imagenet": (7, 2)}
"""Kernel and stride of the first convolution."""


class BasicBlock(nn.Module):
    """`relu(F(x) + shortcut(x))`, F = conv-bn-relu-conv-bn (section 3.3, shortcut B).

    `zero_init` starts F at 0 (Goyal et al. 2017, arXiv:1706.02677, section 5.1).

    Shapes: x [B, H, W, C] -> [B, H / stride, W / stride, width].
    """

    width: int
    stride: int = 1
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Features."""
        y = conv(self.width, 3, self.stride, bias=False, name="conv_1")(x)
        y = nn.relu(batch_norm(train, name="norm_1")(y))
        y = conv(self.width, 3, bias=False, name="conv_2")(y)
        y = batch_norm(train, zero=self.zero_init, name="norm_2")(y)
        if x.shape != y.shape:
            x = conv(self.width, 1, self.stride, bias=False, name="shortcut")(x)
            x = batch_norm(train, name="shortcut_norm")(x)
        return constrain(nn.relu(y + x), IMAGE)


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
    """A stem, stages of basic blocks that halve the image and double the width, mean, logits.

    The default is ResNet-18: 11,173,962 parameters, and 11,689,512 with `stem="imagenet"` and 1000
    classes.

    Shapes: x [B, H, W, C] -> logits [B, classes].
    """

    stages: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem: str = "cifar"
    classes: int = 10
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits."""
        x = Stem(self.stem, self.width, name="stem")(x, train=train)
        for stage, depth in enumerate(self.stages):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                block = BasicBlock(
                    self.width * 2**stage, stride, self.zero_init, name=f"stage_{stage}_block_{i}"
                )
                x = block(x, train=train)
        logits = dense(self.classes, ("embed", "classes"), name="head")(x.mean((1, 2)))
        return constrain(logits, ("batch", "act_classes"))
