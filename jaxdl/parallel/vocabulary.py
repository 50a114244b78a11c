"""A function of tokens' features and of a table of all tokens, with both divided over devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jax import lax

from jaxdl.parallel.per_shard import Spread, spread
from jaxdl.parallel.placement import dividing
from jaxdl.parallel.rules import context

Axes = tuple[str, ...]


@dataclass(frozen=True)
class SpreadVocabulary:
    """Runs a function on the shards of tokens and vocabulary; its results are those of all.

    `fn(*arrays, over=axes)` sees the vocabulary divided over these mesh axes. It adds up over them
    what concerns all tokens of the vocabulary, and gives gradients from its own share alone.
    """

    spread: Spread
    tokens: Axes
    over: Axes

    def __call__(self, fn: Callable, inputs: Sequence[str], outputs: Sequence[str]) -> Callable:
        """`fn`, of arrays of the kinds `inputs`, with a tuple of `outputs`."""
        partial_over = {
            **dict.fromkeys(("total", "table", "bias"), self.tokens),
            "features": self.over,
            "tokens": (),
        }

        def local(*args):
            found = fn(*args, over=self.over)
            return tuple(
                lax.psum(a, partial_over[kind]) if partial_over[kind] else a
                for a, kind in zip(found, outputs, strict=True)
            )

        return self.spread(local, inputs, outputs)


def spread_vocabulary(*, tied: bool) -> SpreadVocabulary | None:
    """The one of the current scope, for features [B, T, D], tokens [B, T] and a table [V, D], or
    [D, V] unless it is `tied`; None without a mesh.
    """
    here = context()
    if here is None:
        return None
    mesh, rules = here
    placed = spread(
        features=("batch", "time", None),
        table=("act_vocab", None) if tied else (None, "act_vocab"),
        bias=("act_vocab",),
        tokens=("batch", "time"),
        total=(),
    )
    tokens = (*dividing(rules["batch"], mesh), *dividing(rules["time"], mesh))
    return SpreadVocabulary(placed, tokens, dividing(rules["act_vocab"], mesh))
