"""Image (or vector) classification."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core import rng
from jaxdl.core.errors import InputError
from jaxdl.core.task import Aux, Batch, Key, Metric, ModelState, Params, Player, Sums
from jaxdl.losses import cross_entropy
from jaxdl.metrics import Accuracy, Mean
from jaxdl.tasks import module
from jaxdl.tasks.mixup import mix, partners


@dataclass(frozen=True)
class Classification:
    """Softmax cross-entropy of `model(image)` [B, classes] against integer `label` [B]."""

    smoothing: float = 0.0
    """Label smoothing in training; evaluation reports the plain cross-entropy."""
    mixup: float = 0.0
    """Trains on mixtures of two images, whose share is drawn from Beta(mixup, mixup); 0 is off."""
    primary: str = "valid/accuracy"
    mode: str = "max"

    def __post_init__(self):
        """Refuses a smoothing that leaves nothing of the label, and what no Beta has."""
        if not 0 <= self.smoothing < 1:
            raise InputError(f"smoothing={self.smoothing} must lie in [0, 1); 0 is off.")
        if not 0 <= self.mixup < math.inf:
            raise InputError(f"mixup={self.mixup} must be at least 0 and finite; 0 is off.")

    def init(self, model: Any, key: Key, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters and state of `model` for such images."""
        return module.init(model, key, batch["image"])

    def players(self, model: Any) -> tuple[Player, ...]:
        """One player over all parameters; its `accuracy` is by the label of the larger share."""

        def loss(params: Params, state: ModelState, batch: Batch, key: Key) -> tuple[Sums, Aux]:
            images, labels, mask = batch["image"], batch["label"], batch.get("mask")
            share = None
            if self.mixup:
                images, share = mix(images, mask, rng.fold(key, "mixup"), self.mixup)
            logits, state = module.train(model, params, state, key, images)
            sums = self._sums(logits, labels, mask, share)
            if share is not None:
                labels = jnp.where(share < 0.5, partners(labels), labels)
            accuracy = Accuracy.from_model_output(logits, labels, mask)
            return sums, (state, {"accuracy": accuracy})

        return (Player("main", loss),)

    def _sums(
        self, logits: jax.Array, labels: jax.Array, mask: jax.Array | None, share: jax.Array | None
    ) -> Sums:
        """The training loss; where images are mixed that of both labels, by their shares."""
        of = functools.partial(cross_entropy, logits, smoothing=self.smoothing)
        if share is None:
            return of(labels, mask=mask)
        own = share if mask is None else share * mask
        other = 1 - share if mask is None else (1 - share) * mask
        return of(labels, mask=own) + of(partners(labels), mask=other)

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
