"""GPT-2 (Radford et al. 2019, section 2.3)."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.core.part import Part
from jaxdl.nn import Attention, GeluMLP, Stack, constrain, dropout, embed, layer_norm

STD = 0.02
SEQUENCE = ("batch", "time", "act_embed")


class Block(nn.Module):
    """`x = x + attention(norm(x))`, then `x = x + mlp(norm(x))`.

    The `2 depth` residual projections start smaller by 1 / sqrt(2 depth): their sum does not grow
    with depth.

    Shapes: x [B, T, D] -> [B, T, D].
    """

    heads: int
    depth: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Features."""
        spread = {"std": STD, "out_std": STD / (2 * self.depth) ** 0.5}
        attention = Attention(
            self.heads, causal=True, dropout=self.dropout, **spread, name="attention"
        )
        mlp = GeluMLP(4 * x.shape[-1], **spread, name="mlp")
        drop = dropout(self.dropout, train)
        x = x + drop(attention(layer_norm(name="norm_1")(x), train=train))
        x = x + drop(mlp(layer_norm(name="norm_2")(x)))
        return constrain(x, SEQUENCE)


class GPT(nn.Module):
    """A decoder: tokens and learned positions, pre-norm blocks, logits by the tied embedding.

    GPT-2 small is `GPT(50257, 768, 12, 12, 1024)`: 124,439,808 parameters.

    Shapes: tokens [B, T] int32, T <= seq -> logits [B, T, vocab].
    """

    vocab: int
    width: int
    depth: int
    heads: int
    seq: int
    dropout: float = 0.0
    remat: str = "none"

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool = False) -> Array:
        """Next-token logits."""
        length = tokens.shape[1]
        if length > self.seq:
            raise InputError(
                f"{length} tokens do not fit the {self.seq} positions of this GPT; "
                f"shorten them, or build it with seq={length}."
            )
        table = embed(self.vocab, self.width, std=STD, name="tokens")
        positions = embed(self.seq, self.width, ("pos", "embed"), std=STD, name="positions")
        x = table(tokens) + positions(jnp.arange(length))[None]
        x = constrain(dropout(self.dropout, train)(x), SEQUENCE)
        block = Part(Block, heads=self.heads, depth=self.depth, dropout=self.dropout)
        x = Stack(block, self.depth, self.remat, name="blocks")(x, train=train)
        logits = table.attend(layer_norm(name="norm")(x))
        return constrain(logits, ("batch", "time", "act_vocab"))
