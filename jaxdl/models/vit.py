"""Vision transformers (Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.core.part import Part
from jaxdl.models.weights import reader
from jaxdl.nn import Attention, GeluMLP, Stack, constrain, dense, dropout, layer_norm
from jaxdl.nn.layers import named

SEQUENCE = ("batch", "norm_time", "act_embed")


class Block(nn.Module):
    """`x = x + attention(norm(x))`, then `x = x + mlp(norm(x))` (eq. 2 and 3).

    gelu is exact, or in its `approximate` tanh form.

    Shapes: x [B, T, D] -> [B, T, D].
    """

    heads: int
    dropout: float = 0.0
    eps: float = 1e-6
    approximate: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Features."""
        attention = Attention(self.heads, name="attention")
        mlp = GeluMLP(4 * x.shape[-1], approximate=self.approximate, name="mlp")
        drop = dropout(self.dropout, train)
        x = x + drop(attention(layer_norm(eps=self.eps, name="norm_1")(x), train=train))
        x = x + drop(mlp(layer_norm(eps=self.eps, name="norm_2")(x)))
        return constrain(x, SEQUENCE)


class ViT(nn.Module):
    """Patches as words: a class token before them, learned positions, pre-norm blocks, logits.

    The class token's features give the logits. The positions are those of the images it was
    initialised for. `approximate` takes gelu in its tanh form; `remat` is that of `nn.Stack`.
    ViT-B/16 is `ViT(16, 768, 12, 12)`: 86,567,656 parameters at 224x224.

    Shapes: x [B, H, W, C] -> logits [B, classes]; H and W are multiples of `patch`.
    """

    patch: int
    width: int
    depth: int
    heads: int
    classes: int = 1000
    dropout: float = 0.0
    eps: float = 1e-6
    remat: str = "none"
    approximate: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits."""
        x = dense(self.width, (None, "embed"), name="patches")(split(x, self.patch))
        first = self.param("class", named(nn.initializers.zeros, ("embed",)), (self.width,))
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.width))
        x = jnp.concatenate([first, x], 1) + self._positions(x.shape[1] + 1)
        x = constrain(dropout(self.dropout, train)(x), SEQUENCE)
        same = {name: getattr(self, name) for name in ("heads", "dropout", "eps", "approximate")}
        block = Part(Block, **same)
        x = Stack(block, self.depth, self.remat, name="blocks")(x, train=train)
        x = layer_norm(eps=self.eps, name="norm")(x[:, 0])
        logits = dense(self.classes, ("embed", "classes"), name="head")(x)
        return constrain(logits, ("batch", "act_classes"))

    def _positions(self, count: int) -> Array:
        """Shape [1, count, D]."""
        stored = nn.unbox(self.get_variable("params", "positions"))
        if stored is not None and stored.shape[0] != count:
            raise InputError(
                f"the image has {count - 1} patches of {self.patch}x{self.patch}, but the "
                f"positions are for {stored.shape[0] - 1}; resize the image."
            )
        init = named(nn.initializers.normal(0.02), ("pos", "embed"))
        return self.param("positions", init, (count, self.width))[None]


def split(x: Array, patch: int) -> Array:
    """The image cut into squares, row by row: [B, H, W, C] -> [B, H W / P^2, P^2 C].

    Raises:
        InputError: the patch does not divide the image.
    """
    batch, height, width, channels = x.shape
    if patch < 1 or height % patch or width % patch:
        fits = [p for p in range(1, min(height, width) + 1) if not (height % p or width % p)]
        near = sorted(sorted(fits, key=lambda p: abs(p - patch))[:2])
        raise InputError(
            f"patch={patch} does not divide the {height}x{width} image; nearest that do: {near}."
        )
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch**2 * channels)


HUB = {
    "vit.encoder.layer.": "vit.layers.",
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}
"""How files on the hub name the layers of `transformers` 5, in this order."""


def from_huggingface(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `ViT` from the state dict of a `ViTForImageClassification`, as numpy.

    Names are those of `transformers` 5 or of the files on the hub. Build the model with `eps=1e-12`
    and with the image size and the heads of that model.

    Raises:
        InputError: a weight is missing.
    """
    get = reader({_in_version_5(name): value for name, value in weights.items()})
    layers = [name.split(".")[2] for name in map(_in_version_5, weights) if ".layers." in name]

    def stacked(name: str) -> np.ndarray:
        depth = 1 + max(map(int, layers), default=0)
        return np.stack([get(f"vit.layers.{i}.{name}") for i in range(depth)])

    def norm(name: str, read: Any) -> dict[str, np.ndarray]:
        return {"scale": read(f"{name}.weight"), "bias": read(f"{name}.bias")}

    def linear(name: str, read: Any = stacked) -> dict[str, np.ndarray]:
        return {"kernel": np.swapaxes(read(f"{name}.weight"), -1, -2), "bias": read(f"{name}.bias")}

    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}
    patches = "vit.embeddings.patch_embeddings.projection"
    kernel = get(f"{patches}.weight").transpose(2, 3, 1, 0)
    layer = {
        "norm_1": norm("layernorm_before", stacked),
        "attention": {mine: linear(f"attention.{theirs}") for mine, theirs in names.items()},
        "norm_2": norm("layernorm_after", stacked),
        "mlp": {"up": linear("mlp.fc1"), "down": linear("mlp.fc2")},
    }
    return {
        "patches": {
            "kernel": kernel.reshape(-1, kernel.shape[-1]),
            "bias": get(f"{patches}.bias"),
        },
        "class": get("vit.embeddings.cls_token")[0, 0],
        "positions": get("vit.embeddings.position_embeddings")[0],
        "blocks": {"layers": layer},
        "norm": norm("vit.layernorm", get),
        "head": linear("classifier", get),
    }


def _in_version_5(name: str) -> str:
    for old, new in HUB.items():
        name = name.replace(old, new)
    return name
