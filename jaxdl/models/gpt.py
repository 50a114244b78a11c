"""GPT-2 (Radford et al. 2019, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.core.part import Part
from jaxdl.models.weights import reader
from jaxdl.nn import (
    Attention,
    GeluMLP,
    Logits,
    MoE,
    Stack,
    constrain,
    dropout,
    embed,
    layer_norm,
    learned,
)

STD = 0.02
SEQUENCE = ("batch", "norm_time", "act_embed")


class Block(nn.Module):
    """`x = x + attention(norm(x))`, then `x = x + mlp(norm(x))`, or a mixture of such experts.

    The `2 depth` residual projections start smaller by 1 / sqrt(2 depth): their sum does not grow
    with depth.

    Shapes: x [B, T, D] -> [B, T, D].
    """

    heads: int
    depth: int
    dropout: float = 0.0
    cache: int = 0
    kv_heads: int = 0
    experts: int = 0
    top_k: int = 2
    capacity: float = 1.25
    rotary: Callable[[Array, Array], Array] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Features."""
        spread = {"std": STD, "out_std": STD / (2 * self.depth) ** 0.5}
        attention = Attention(
            self.heads,
            causal=True,
            dropout=self.dropout,
            cache=self.cache,
            kv_heads=self.kv_heads,
            rotary=self.rotary,
            name="attention",
            **spread,
        )
        hidden = 4 * x.shape[-1]
        if self.experts:
            mlp = MoE(hidden, self.experts, self.top_k, self.capacity, **spread, name="moe")
        else:
            mlp = GeluMLP(hidden, **spread, name="mlp")
        drop = dropout(self.dropout, train)
        x = x + drop(attention(layer_norm(name="norm_1")(x), train=train))
        x = x + drop(mlp(layer_norm(name="norm_2")(x)))
        return constrain(x, SEQUENCE)


class GPT(nn.Module):
    """A decoder: tokens and positions, pre-norm blocks, logits by the tied embedding.

    GPT-2 small is `GPT(50257, 768, 12, 12, 1024)`: 124,439,808 parameters. `remat` and
    `remat_segment` are `remat` and `segment` of `nn.Stack`. With `decode` the tokens continue those
    of the calls before, which the mutable collection `cache` holds.

    `positions` is `nn.learned`, `nn.sinusoidal`, or None, which adds nothing to the tokens;
    `kv_heads` and `rotary` are those of `nn.Attention`. `experts` above 0 makes each MLP an
    `nn.MoE` of so many, with its `top_k` and `capacity`. The embedding has rows up to a multiple of
    `pad_vocab`, so that it divides over devices; logits of tokens beyond `vocab` are the least
    there are. With `lazy` the result is `nn.Logits`, whose loss does not need all of them at once.

    Shapes: tokens [B, T] int32, T <= seq -> logits [B, T, V], V = vocab rounded up.
    """

    vocab: int
    width: int
    depth: int
    heads: int
    seq: int
    dropout: float = 0.0
    remat: str = "none"
    remat_segment: int = 1
    kv_heads: int = 0
    pad_vocab: int = 1
    experts: int = 0
    top_k: int = 2
    capacity: float = 1.25
    positions: Callable[..., Callable[[Array], Array]] | None = learned
    rotary: Callable[[Array, Array], Array] | None = None

    @nn.compact
    def __call__(
        self, tokens: Array, *, train: bool = False, decode: bool = False, lazy: bool = False
    ) -> Array | Logits:
        """Next-token logits."""
        length = tokens.shape[1]
        if length > self.seq:
            raise InputError(
                f"{length} tokens do not fit the {self.seq} positions of this GPT; "
                f"shorten them, or build it with seq={length}."
            )
        if self.pad_vocab < 1:
            raise InputError(f"pad_vocab={self.pad_vocab} must be at least 1, which pads nothing.")
        rows = -(-self.vocab // self.pad_vocab) * self.pad_vocab
        table = embed(rows, self.width, std=STD, name="tokens")
        now = jnp.arange(length)
        if decode:
            start = self.variable("cache", "length", jnp.zeros, (), jnp.int32)
            now += start.value
            start.value += length
        x = table(tokens)
        if self.positions:
            place = self.positions(self.seq, self.width, std=STD, name="positions")
            x += place(now)[None].astype(x.dtype)
        x = constrain(dropout(self.dropout, train)(x), SEQUENCE)
        block = Part(
            Block,
            heads=self.heads,
            depth=self.depth,
            dropout=self.dropout,
            cache=self.seq if decode else 0,
            kv_heads=self.kv_heads,
            experts=self.experts,
            top_k=self.top_k,
            capacity=self.capacity,
            rotary=self.rotary,
        )
        stack = Stack(block, self.depth, self.remat, self.remat_segment, name="blocks")
        x = layer_norm(name="norm")(stack(x, train=train))
        if lazy:
            return Logits(x, table.embedding.astype(x.dtype), self.vocab)
        logits = table.attend(x)
        if rows > self.vocab:
            known = jnp.arange(rows)[None, None] < self.vocab
            logits = jnp.where(known, logits, jnp.finfo(logits.dtype).min)
        return constrain(logits, ("batch", "time", "act_vocab"))


def from_huggingface(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `GPT` from the state dict of a GPT-2 of `transformers`, as numpy.

    The names are those of `GPT2LMHeadModel`, or of `GPT2Model`, which lack `transformer.`; heads
    are part of the model, not of its weights.

    Raises:
        InputError: a weight is missing, or the output layer is not the embedding.
    """
    found = {name.removeprefix("transformer."): value for name, value in weights.items()}
    layers = [name.split(".")[1] for name in found if name.startswith("h.")]
    depth, get = 1 + max(map(int, layers), default=0), reader(found)

    def stacked(name: str, part: slice = slice(None)) -> np.ndarray:
        return np.stack([get(f"h.{i}.{name}")[..., part] for i in range(depth)])

    def norm(name: str, read: Callable) -> dict[str, np.ndarray]:
        return {"scale": read(f"{name}.weight"), "bias": read(f"{name}.bias")}

    def linear(name: str, *part: slice) -> dict[str, np.ndarray]:
        # Their linear layers store [in, out], as ours do.
        kernel, bias = stacked(f"{name}.weight", *part), stacked(f"{name}.bias", *part)
        return {"kernel": kernel, "bias": bias}

    if "lm_head.weight" in found and not np.array_equal(get("lm_head.weight"), get("wte.weight")):
        raise InputError("'lm_head.weight' is not 'wte.weight', but this GPT has one for both.")
    width = get("wte.weight").shape[1]
    q, k, v = (slice(i * width, (i + 1) * width) for i in range(3))
    layer = {
        "norm_1": norm("ln_1", stacked),
        "attention": {
            "q": linear("attn.c_attn", q),
            "k": linear("attn.c_attn", k),
            "v": linear("attn.c_attn", v),
            "out": linear("attn.c_proj"),
        },
        "norm_2": norm("ln_2", stacked),
        "mlp": {"up": linear("mlp.c_fc"), "down": linear("mlp.c_proj")},
    }
    return {
        "tokens": {"embedding": get("wte.weight")},
        "positions": {"embedding": get("wpe.weight")},
        "blocks": {"layers": layer},
        "norm": norm("ln_f", get),
    }
