"""Models by name: the only such table."""

from __future__ import annotations

from typing import Any

from jaxdl.core.errors import InputError, suggest
from jaxdl.core.part import Part
from jaxdl.models.gan import GAN, Critic, Generator
from jaxdl.models.gpt import GPT
from jaxdl.models.lenet import LeNet
from jaxdl.models.lstm import LSTMLanguageModel
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import Bottleneck, ResNet
from jaxdl.models.vit import ViT

IMAGENET = {"stem": "imagenet", "classes": 1000}

ZOO = {
    "gan": Part(GAN, generator=Generator(), critic=Critic()),
    "gpt2": Part(GPT, vocab=50257, width=768, depth=12, heads=12, seq=1024),
    "gpt2_large": Part(GPT, vocab=50257, width=1280, depth=36, heads=20, seq=1024),
    "gpt2_medium": Part(GPT, vocab=50257, width=1024, depth=24, heads=16, seq=1024),
    "gpt2_xl": Part(GPT, vocab=50257, width=1600, depth=48, heads=25, seq=1024),
    "gpt3": Part(GPT, vocab=50257, width=12288, depth=96, heads=96, seq=2048, pad_vocab=128),
    "gpt_tiny": Part(GPT, vocab=256, width=32, depth=2, heads=4, seq=64),
    "lenet5": Part(LeNet),
    "lstm": Part(LSTMLanguageModel, vocab=10000, width=256, hidden=512),
    "mlp": Part(MLP, widths=(128, 64, 32), classes=10, dropout=0.2),
    "resnet101": Part(ResNet, **IMAGENET, block=Bottleneck, stages=(3, 4, 23, 3)),
    "resnet152": Part(ResNet, **IMAGENET, block=Bottleneck, stages=(3, 8, 36, 3)),
    "resnet18": Part(ResNet, **IMAGENET),
    "resnet18_cifar": Part(ResNet, stem="cifar", classes=10),
    "resnet34": Part(ResNet, **IMAGENET, stages=(3, 4, 6, 3)),
    "resnet50": Part(ResNet, **IMAGENET, block=Bottleneck, stages=(3, 4, 6, 3)),
    "vit_b16": Part(ViT, patch=16, width=768, depth=12, heads=12),
    "vit_l16": Part(ViT, patch=16, width=1024, depth=24, heads=16),
    "vit_s16": Part(ViT, patch=16, width=384, depth=12, heads=6),
    "vit_ti16": Part(ViT, patch=16, width=192, depth=12, heads=3),
}


def create(name: str, **kw: Any) -> Any:
    """The model of that name, with its fields changed by `kw`, e.g. `create("gpt2", depth=24)`.

    Raises:
        InputError: on a name or field that does not exist.
    """
    if name not in ZOO:
        raise InputError(f"unknown model {name!r}; {suggest(name, ZOO)}.")
    known = ZOO[name]
    return Part(known.target, **known.kw | kw)()
