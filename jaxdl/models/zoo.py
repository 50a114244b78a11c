"""Models by name: the only such table."""

from __future__ import annotations

from typing import Any

from jaxdl.core.errors import InputError, suggest
from jaxdl.core.part import Part
from jaxdl.models.gan import GAN, Critic, Generator
from jaxdl.models.gpt import GPT
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet

ZOO = {
    "gan": Part(GAN, generator=Generator(), critic=Critic()),
    "gpt2": Part(GPT, vocab=50257, width=768, depth=12, heads=12, seq=1024),
    "gpt_tiny": Part(GPT, vocab=256, width=32, depth=2, heads=4, seq=64),
    "mlp": Part(MLP, widths=(128, 64, 32), classes=10, dropout=0.2),
    "resnet18": Part(ResNet, stem="imagenet", classes=1000),
    "resnet18_cifar": Part(ResNet, stem="cifar", classes=10),
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
