"""Mixtures of experts: GShard (Lepikhin et al. 2020, arXiv:2006.16668, section 2.2) and Switch
(Fedus et al. 2021, arXiv:2101.03961, section 2).

B sequences, T positions, E experts, C places of an expert for one sequence, D width, F hidden
width, k choices of a position.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.nn.layers import named
from jaxdl.parallel import constrain

HERE = (None, "batch", None, "act_embed")
"""Where sequences lie."""
THERE = ("act_experts", "expert_batch", None, "act_embed")
"""Where their experts do."""


class MoE(nn.Module):
    """Each position is the work of its `top_k` likeliest among `experts` networks, each a GeluMLP.

    Their results are weighted by the router's probabilities: among those chosen, or, if only one
    is, as they are. In each sequence an expert has `capacity` times the places of an even share,
    C = ceil(capacity k T / E); the earlier positions come first, so that nothing depends on the
    future, and a choice that finds no place adds nothing.

    Sown into the collection `losses`, one value per sequence [B]: `balance_loss`, E sum f P of the
    shares of choices f and of the mean probabilities P of the experts, 1 where they are even;
    `router_z_loss`, the mean of logZ^2 of the router's logits (Zoph et al. 2022, arXiv:2202.08906);
    `dropped`, the share of choices that found no place.

    `std` and `out_std` are the initial spreads of a network's two matrices; None is LeCun's.

    Shapes: x [B, T, D] -> [B, T, D], hidden width F.
    """

    width: int
    experts: int
    top_k: int = 2
    capacity: float = 1.25
    std: float | None = None
    out_std: float | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps each position on its own, as far as there are places."""
        self._check()
        dispatch, combine = self._route(x)
        # Collected where the sequences lie, then sent: else XLA might gather them all.
        sent = constrain(jnp.einsum("btec,btd->ebcd", dispatch.astype(x.dtype), x), HERE)
        done = constrain(self._apply(constrain(sent, THERE)), HERE)
        return jnp.einsum("btec,ebcd->btd", combine.astype(x.dtype), done)

    def _route(self, x: Array) -> tuple[Array, Array]:
        """Which position has which place [B, T, E, C], and the same times its weight there."""
        time, count = x.shape[1], self.experts
        init = (
            nn.initializers.lecun_normal() if self.std is None else nn.initializers.normal(self.std)
        )
        router = self.param("router", named(init, ("embed", None)), (x.shape[-1], count))
        logits = jnp.einsum("btd,de->bte", *(a.astype(jnp.float32) for a in (x, router)))
        probs = jax.nn.softmax(logits)
        choices = _likeliest(probs, self.top_k)
        weights = jnp.einsum("bte,btke->btk", probs, choices)
        if self.top_k > 1:
            weights /= weights.sum(-1, keepdims=True)
        order = choices.reshape(-1, time * self.top_k, count).cumsum(1).reshape(choices.shape)
        place = (order * choices).sum(-1).astype(jnp.int32) - 1
        places = min(math.ceil(self.capacity * self.top_k * time / count), time)
        # A place beyond the last is a row of zeros.
        taken = jax.nn.one_hot(place, places)
        self._sow(logits, probs, choices, 1 - taken.sum(-1))
        dispatch = jnp.einsum("btke,btkc->btec", choices, taken)
        return dispatch, jnp.einsum("btk,btke,btkc->btec", weights, choices, taken)

    def _sow(self, logits: Array, probs: Array, choices: Array, dropped: Array) -> None:
        share = choices.mean((1, 2))
        self.sow("losses", "balance_loss", self.experts * (share * probs.mean(1)).sum(-1))
        self.sow("losses", "router_z_loss", (jax.nn.logsumexp(logits, -1) ** 2).mean(1))
        self.sow("losses", "dropped", dropped.mean((1, 2)))

    def _apply(self, x: Array) -> Array:
        """The experts [E, B, C, D] -> [E, B, C, D]."""
        hidden = self._dense("up", x, self.width, ("embed", "mlp"), self.std)
        hidden = constrain(nn.gelu(hidden), (*THERE[:-1], "act_mlp"))
        y = self._dense("down", hidden, x.shape[-1], ("mlp", "embed"), self.out_std)
        return constrain(y, THERE)

    def _dense(self, name: str, x: Array, width: int, names, std: float | None) -> Array:
        lecun = nn.initializers.lecun_normal(batch_axis=0)
        init = named(lecun if std is None else nn.initializers.normal(std), ("experts", *names))
        kernel = self.param(f"{name}_kernel", init, (self.experts, x.shape[-1], width))
        zeros = named(nn.initializers.zeros, ("experts", names[1]))
        bias = self.param(f"{name}_bias", zeros, (self.experts, width))
        return jnp.einsum("ebci,eio->ebco", x, kernel) + bias[:, None, None]

    def _check(self) -> None:
        if self.experts < 1 or not 1 <= self.top_k <= self.experts or self.capacity <= 0:
            raise InputError(
                f"of experts={self.experts}, each position chooses top_k={self.top_k}, from 1 to "
                f"as many as there are, with a capacity={self.capacity} above 0."
            )


def _likeliest(probs: Array, top_k: int) -> Array:
    """The `top_k` likeliest experts, each as a row of zeros and a one [B, T, k, E]."""
    # XLA gathers all sequences on each device for lax.top_k, and none for this.
    left, found = jax.lax.stop_gradient(probs), []
    for _ in range(top_k):
        found.append(jax.nn.one_hot(left.argmax(-1), probs.shape[-1]))
        left = jnp.where(found[-1] > 0, -1.0, left)
    return jnp.stack(found, axis=2)
