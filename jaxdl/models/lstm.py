"""Language models of stacked LSTMs (Mikolov et al. 2010; Zaremba et al. 2014, arXiv:1409.2329)."""

from __future__ import annotations

from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.nn import LSTM, constrain, dense, dropout, embed


class LSTMLanguageModel(nn.Module):
    """Embedded tokens through `depth` LSTMs, then logits; dropout between, never within, layers.

    With vocab 10000, width 256 and hidden 512 it has 9,266,960 parameters. With `decode` the tokens
    continue those of the calls before, whose state the mutable collection `cache` holds.

    Shapes: tokens [B, T] int32 -> logits [B, T, vocab].
    """

    vocab: int
    width: int
    hidden: int
    depth: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool = False, decode: bool = False) -> Array:
        """Next-token logits."""
        if self.depth < 1:
            raise InputError(f"depth={self.depth} must be at least 1.")
        x = embed(self.vocab, self.width, std=1.0, name="tokens")(tokens)
        x = constrain(x, ("batch", "time", "act_embed"))
        for i in range(self.depth):
            x = dropout(self.dropout, train)(x)
            x = LSTM(self.hidden, name=f"lstm_{i}")(x, decode=decode)
        x = dropout(self.dropout, train)(x)
        logits = dense(self.vocab, ("embed", "vocab"), name="head")(x)
        return constrain(logits, ("batch", "time", "act_vocab"))
