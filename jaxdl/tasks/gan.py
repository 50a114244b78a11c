"""Generative adversarial training: two players, one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core import rng
from jaxdl.core.task import Aux, Batch, Key, Metric, ModelState, Params, Player, Sums
from jaxdl.losses import binary_cross_entropy
from jaxdl.metrics import Frechet, Mean
from jaxdl.tasks import module


@dataclass(frozen=True)
class Adversarial:
    """The non-saturating GAN (Goodfellow et al. 2014, arXiv:1406.2661) on logits.

    Model: `generator(z [B, latent])` -> images in [-1, 1]; `critic(image)` -> logits [B]. Batch:
    `image` [B, ...] scaled to [-1, 1]. Noise is fresh in every update of every player.
    """

    primary: str = "valid/frechet"
    mode: str = "min"

    def init(self, model: Any, key: Key, batch: Batch) -> tuple[Params, ModelState]:
        """Both modules' parameters and states, under `generator` and `critic`."""
        z = self._noise(model, rng.fold(key, "noise"), batch)
        params_g, state_g = module.init(model.generator, rng.fold(key, "generator"), z)
        params_c, state_c = module.init(model.critic, rng.fold(key, "critic"), batch["image"])
        state = {"generator": state_g, "critic": state_c}
        return {"generator": params_g, "critic": params_c}, state

    def players(self, model: Any) -> tuple[Player, ...]:
        """The critic, then the generator against the updated critic."""

        def critic(params: Params, state: ModelState, batch: Batch, key: Key) -> tuple[Sums, Aux]:
            """Sum over the batch of log(1 + e^-D(x)) + log(1 + e^D(G(z))); weight: its examples."""
            fake, state_g = self._generate(model, params, state, batch, rng.fold(key, "fake"))
            real, state_c = self._judge(model, params, state, batch["image"], rng.fold(key, "real"))
            state = {**state, "generator": state_g, "critic": state_c}
            false, state_c = self._judge(
                model, params, state, jax.lax.stop_gradient(fake), rng.fold(key, "judge")
            )
            mask = batch.get("mask")
            good = binary_cross_entropy(real, 1.0, mask=mask)
            bad = binary_cross_entropy(false, 0.0, mask=mask)
            metrics = {
                "real_probability": Mean.from_model_output(jax.nn.sigmoid(real), mask),
                "fake_probability": Mean.from_model_output(jax.nn.sigmoid(false), mask),
            }
            sums = Sums(total=good.total + bad.total, weight=good.weight)
            return sums, ({**state, "critic": state_c}, metrics)

        def generator(
            params: Params, state: ModelState, batch: Batch, key: Key
        ) -> tuple[Sums, Aux]:
            """Sum over the batch of log(1 + e^-D(G(z)))."""
            fake, state_g = self._generate(model, params, state, batch, rng.fold(key, "fake"))
            judged, _ = self._judge(model, params, state, fake, rng.fold(key, "judge"))
            sums = binary_cross_entropy(judged, 1.0, mask=batch.get("mask"))
            return sums, ({**state, "generator": state_g}, {})

        return (
            Player("critic", critic, params="critic/*", optim="optim.critic"),
            Player("generator", generator, params="generator/*", optim="optim.generator"),
        )

    def evaluate(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> Mapping[str, Metric]:
        """`frechet` of pixel Gaussians, and the critic's mean probabilities (.5 at the optimum)."""
        real, fake = batch["image"], self.predict(model, params, state, batch, key)["image"]
        rows = real.shape[0]
        mask = batch.get("mask", jnp.ones(rows, jnp.float32))

        def probability(image):
            logits = module.infer(model.critic, params["critic"], state["critic"], image)
            return Mean.from_model_output(jax.nn.sigmoid(logits.astype(jnp.float32)), mask)

        return {
            "frechet": Frechet.from_model_output(
                real.reshape(rows, -1), fake.reshape(rows, -1), mask
            ),
            "critic.real_probability": probability(real),
            "critic.fake_probability": probability(fake),
        }

    def predict(
        self, model: Any, params: Params, state: ModelState, batch: Batch, key: Key
    ) -> dict[str, jax.Array]:
        """One generated `image` per row of the batch, in [-1, 1] f32."""
        z = self._noise(model, key, batch)
        image = module.infer(model.generator, params["generator"], state["generator"], z)
        return {"image": image.astype(jnp.float32)}

    def _noise(self, model: Any, key: Key, batch: Batch) -> jax.Array:
        return jax.random.normal(key, (batch["image"].shape[0], model.generator.latent))

    def _generate(self, model, params, state, batch, key):
        z = self._noise(model, rng.fold(key, "noise"), batch)
        return module.train(model.generator, params["generator"], state["generator"], key, z)

    def _judge(self, model, params, state, image, key):
        return module.train(model.critic, params["critic"], state["critic"], key, image)
