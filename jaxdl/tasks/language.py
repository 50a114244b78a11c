"""Autoregressive language modelling."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.errors import InputError
from jaxdl.core.task import Aux, Batch, Key, Metric, ModelState, Params, Player, Sums
from jaxdl.losses import cross_entropy
from jaxdl.metrics import Accuracy, Mean, Perplexity
from jaxdl.tasks import module


@dataclass(frozen=True)
class LanguageModel:
    """Next-token cross-entropy: `model(tokens[:, :-1])` [B, T, V] against `tokens[:, 1:]`.

    Batch: `tokens` [B, T + 1] integers; optional `token_mask` [B, T] weighs the targets.
    """

    z_loss: float = 0.0
    """Coefficient of logZ^2 in training (PaLM, arXiv:2204.02311)."""
    balance: float = 0.01
    """That of the `balance_loss` of each mixture of experts (Switch, arXiv:2101.03961)."""
    router_z: float = 0.0
    """That of their `router_z_loss` (ST-MoE, arXiv:2202.08906)."""
    fused: bool = False
    """Whether the loss is made from a few logits at a time, in training and in evaluation.

    All [B, T, V] of them are the largest tensor of a model with many tokens; fused, a chunk of them
    takes about as much as the output layer's gradient (`nn.Logits`). It needs a model that can be
    called with `lazy`, such as GPT. Off by default: in half precision the numbers are others
    (nearer to the exact ones, since logits are not rounded), and few tokens gain nothing by it.
    """
    primary: str = "valid/loss"
    mode: str = "min"

    def init(self, model: Any, key: Key, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters and state of `model` for such token windows."""
        return module.init(model, key, batch["tokens"][:, :-1])

    def players(self, model: Any) -> tuple[Player, ...]:
        """One player over all parameters."""

        def loss(params: Params, state: ModelState, batch: Batch, key: Key) -> tuple[Sums, Aux]:
            tokens = batch["tokens"]
            args = model, params, state, key, tokens[:, :-1]
            logits, state, sown = module.train_with_losses(*args, **self._options(model))
            sums = self._loss(logits, batch, z=self.z_loss)[0]
            sums, metrics = self._with_losses(sums, sown, batch)
            return sums, (state, metrics)

        return (Player("main", loss),)

    def _options(self, model: Any) -> dict[str, bool]:
        """Arguments of the model's call."""
        if not self.fused:
            return {}
        if "lazy" not in inspect.signature(type(model).__call__).parameters:
            raise InputError(
                f"task.fused=True needs a model that is called with `lazy`, as GPT is; "
                f"{type(model).__name__} is not; set task.fused=False."
            )
        return {"lazy": True}

    def _loss(self, logits: Any, batch: Batch, z: float = 0.0) -> tuple[Sums, Accuracy]:
        """Of logits, or of those that a `lazy` model would have computed."""
        targets, mask = batch["tokens"][:, 1:], _mask(batch)
        if not self.fused:
            sums = cross_entropy(logits, targets, mask=mask, z=z)
            return sums, Accuracy.from_model_output(logits, targets, mask)
        total, hits = logits.scores(targets, mask, z=z)
        ones = jnp.ones(targets.shape, jnp.float32) if mask is None else mask
        counted = (ones > 0).sum(dtype=jnp.int32)
        weight = ones.astype(jnp.float32).sum()
        return Sums(total=total, weight=weight), Accuracy(correct=hits, weight=counted)

    def _with_losses(
        self, sums: Sums, sown: Mapping[str, jax.Array], batch: Batch
    ) -> tuple[Sums, Mapping[str, Metric]]:
        """`sums` with the losses of the layers [L, B], and the mean over layers of what they sow.

        A row's value counts as often as its tokens do.
        """
        metrics = {n: Mean.from_model_output(x.mean(0), _tokens(batch)) for n, x in sown.items()}
        total = sums.total
        for name, weight in {"balance_loss": self.balance, "router_z_loss": self.router_z}.items():
            if name in sown:
                total += weight * len(sown[name]) * metrics[name].total
        return replace(sums, total=total), metrics

    def evaluate(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> Mapping[str, Metric]:
        """`loss` in nats per token, `perplexity` = exp(loss), and next-token `accuracy`."""
        del key
        inputs = batch["tokens"][:, :-1]
        logits = module.infer(model, params, state, inputs, **self._options(model))
        sums, accuracy = self._loss(logits, batch)
        return {
            "loss": Mean.from_sums(sums),
            "perplexity": Perplexity.from_sums(sums),
            "accuracy": accuracy,
        }

    def predict(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> dict[str, jax.Array]:
        """`logits` [B, T, V] f32; the likeliest next `token` and its `probability` [B, T]."""
        del key
        logits = module.infer(model, params, state, batch["tokens"][:, :-1]).astype(jnp.float32)
        probability = jax.nn.softmax(logits)
        return {"logits": logits, "token": logits.argmax(-1), "probability": probability.max(-1)}

    def check(self, model: Any, outputs: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
        """Refuses a vocabulary smaller than that of the data."""
        have = getattr(model, "vocab", outputs["logits"].shape[-1])
        need = sizes.get("tokens", 0)
        if have < need:
            raise InputError(
                f"the model's vocabulary is {have}, but the data has {need} tokens; "
                f"set model.vocab={need}."
            )


def _tokens(batch: Batch) -> jax.Array:
    """The weight of each row's targets [B]."""
    mask, targets = _mask(batch), batch["tokens"][:, 1:]
    return (jnp.ones(targets.shape, jnp.float32) if mask is None else mask).sum(1)


def _mask(batch: Batch) -> jax.Array | None:
    """Weights of the targets [B, T] from row and token masks; None when there is neither."""
    rows, tokens = batch.get("mask"), batch.get("token_mask")
    if rows is None:
        return tokens
    targets = batch["tokens"][:, 1:]
    ones = jnp.ones(targets.shape, jnp.float32) if tokens is None else tokens
    return ones * rows[:, None]
