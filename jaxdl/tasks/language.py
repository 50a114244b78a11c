"""Autoregressive language modelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    primary: str = "valid/loss"
    mode: str = "min"

    def init(self, model: Any, key: Key, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters and state of `model` for such token windows."""
        return module.init(model, key, batch["tokens"][:, :-1])

    def players(self, model: Any) -> tuple[Player, ...]:
        """One player over all parameters."""

        def loss(params: Params, state: ModelState, batch: Batch, key: Key) -> tuple[Sums, Aux]:
            tokens = batch["tokens"]
            logits, state = module.train(model, params, state, key, tokens[:, :-1])
            sums = cross_entropy(logits, tokens[:, 1:], mask=_mask(batch), z=self.z_loss)
            return sums, (state, {})

        return (Player("main", loss),)

    def evaluate(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> Mapping[str, Metric]:
        """`loss` in nats per token, `perplexity` = exp(loss), and next-token `accuracy`."""
        del key
        logits = module.infer(model, params, state, batch["tokens"][:, :-1])
        targets, mask = batch["tokens"][:, 1:], _mask(batch)
        sums = cross_entropy(logits, targets, mask=mask)
        return {
            "loss": Mean.from_sums(sums),
            "perplexity": Perplexity.from_sums(sums),
            "accuracy": Accuracy.from_model_output(logits, targets, mask),
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
        del model
        have, need = outputs["logits"].shape[-1], sizes.get("tokens", 0)
        if have < need:
            raise InputError(
                f"the model's vocabulary is {have}, but the data has {need} tokens; "
                f"set model.vocab={need}."
            )


def _mask(batch: Batch) -> jax.Array | None:
    """Weights of the targets [B, T] from row and token masks; None when there is neither."""
    rows, tokens = batch.get("mask"), batch.get("token_mask")
    if rows is None:
        return tokens
    targets = batch["tokens"][:, 1:]
    ones = jnp.ones(targets.shape, jnp.float32) if tokens is None else tokens
    return ones * rows[:, None]
