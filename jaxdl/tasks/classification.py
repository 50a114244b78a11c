"""Image (or vector) classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.errors import InputError
from jaxdl.core.task import Aux, Batch, Key, Metric, ModelState, Params, Player, Sums
from jaxdl.losses import cross_entropy
from jaxdl.metrics import Accuracy, Mean
from jaxdl.tasks import module


@dataclass(frozen=True)
class Classification:
    """Softmax cross-entropy of `model(image)` [B, classes] against integer `label` [B]."""

    smoothing: float = 0.0
    """Label smoothing in training; evaluation reports the plain cross-entropy."""
    primary: str = "valid/accuracy"
    mode: str = "max"

    def __post_init__(self):
        """Refuses a smoothing that leaves nothing of the label."""
        if not 0 <= self.smoothing < 1:
            raise InputError(f"smoothing={self.smoothing} must lie in [0, 1); 0 is off.")

    def init(self, model: Any, key: Key, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters and state of `model` for such images."""
        return module.init(model, key, batch["image"])

    def players(self, model: Any) -> tuple[Player, ...]:
        """One player over all parameters."""

        def loss(params: Params, state: ModelState, batch: Batch, key: Key) -> tuple[Sums, Aux]:
            logits, state = module.train(model, params, state, key, batch["image"])
            mask = batch.get("mask")
            sums = cross_entropy(logits, batch["label"], mask=mask, smoothing=self.smoothing)
            accuracy = Accuracy.from_model_output(logits, batch["label"], mask)
            return sums, (state, {"accuracy": accuracy})

        return (Player("main", loss),)

    def evaluate(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> Mapping[str, Metric]:
        """`loss` in nats and `accuracy`, over the rows of the mask."""
        del key
        logits = module.infer(model, params, state, batch["image"])
        mask = batch.get("mask")
        return {
            "loss": Mean.from_sums(cross_entropy(logits, batch["label"], mask=mask)),
            "accuracy": Accuracy.from_model_output(logits, batch["label"], mask),
        }

    def predict(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> dict[str, jax.Array]:
        """`label` [B] int32 and `probability` [B, classes] f32."""
        del key
        logits = module.infer(model, params, state, batch["image"]).astype(jnp.float32)
        return {"label": logits.argmax(-1), "probability": jax.nn.softmax(logits)}

    def check(self, model: Any, outputs: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
        """Refuses a model with fewer outputs than the data has classes."""
        del model
        have, need = outputs["probability"].shape[-1], sizes.get("label", 0)
        if have < need:
            raise InputError(
                f"the model has {have} outputs, but the data has {need} classes; "
                f"set model.classes={need}."
            )
