"""One training step, as a pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.core import rng, tree
from jaxdl.core.precision import Policy
from jaxdl.core.task import Batch, GradFn, Metric, Player
from jaxdl.metrics import Last, Mean
from jaxdl.optim import ema_update, rates
from jaxdl.train.state import State


def make_step(
    task: Any,
    model: Any,
    txs: Mapping[str, optax.GradientTransformation],
    *,
    grad: GradFn,
    precision: Policy,
    ema: float = 0.0,
) -> Callable[[State, Batch], tuple[State, Mapping[str, Metric]]]:
    """A pure `(state, batch) -> (state, metrics)`; jit it where the mesh is known.

    The players update in order, each from the parameters the one before left. Gradients are
    divided by the batch's weight here and nowhere else. An update whose gradient is not finite is
    left out.
    """
    players = task.players(model)

    def step(state: State, batch: Batch) -> tuple[State, Mapping[str, Metric]]:
        key = rng.fold(state.key, state.step)
        params, model_state, opt, metrics, finite = (
            state.params,
            state.model,
            {},
            {},
            jnp.bool_(True),
        )
        for player in players:
            update = _updater(
                player, txs[player.name], grad, precision, batch, rng.fold(key, player.name)
            )
            old = params, model_state, state.opt[player.name]
            if player.every == 1:
                new, found, fine = update(old)
            else:
                new, found, fine = _every(player.every, state.step, update, old)
            params, model_state, opt[player.name] = new
            prefix = "" if player.name == "main" else f"{player.name}."
            metrics |= {prefix + name: value for name, value in found.items()}
            finite &= fine
        metrics["skipped"] = Mean(total=1.0 - finite.astype(jnp.float32), weight=jnp.float32(1))
        state = replace(
            state,
            step=state.step + 1,
            cursor=state.cursor + 1,
            params=params,
            model=model_state,
            opt=opt,
            ema=ema_update(state.ema, params, ema) if ema else None,
            skipped=state.skipped + (1 - finite.astype(jnp.int32)),
        )
        return state, metrics

    return step


def _updater(
    player: Player,
    tx: optax.GradientTransformation,
    grad: GradFn,
    precision: Policy,
    batch: Batch,
    key: Any,
) -> Callable:
    """One player's update: `(params, model_state, opt) -> ((params, model_state, opt), metrics,
    finite)`."""
    master_loss = player.loss
    player = replace(player, loss=lambda params, *rest: master_loss(precision.cast(params), *rest))

    def update(old):
        params, model_state, opt = old
        grads, sums, (model_state, metrics) = grad(player, params, model_state, batch, key)
        grads = jax.tree.map(lambda g: g / sums.weight, grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm)
        mine = tree.select(params, player.params)
        updates, opt = tx.update(grads, opt, mine)
        params = tree.merge(params, optax.apply_updates(mine, updates))
        new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), (params, model_state, opt), old)
        found = {"loss": Mean.from_sums(sums), "grad_norm": Mean(total=norm, weight=jnp.float32(1))}
        for rate in rates(opt)[:1]:
            found["lr"] = Last.of(rate.value)
        return new, found | metrics, finite

    return update


def _every(period: int, step: jax.Array, update: Callable, old: Any) -> Any:
    """`update(old)` once in `period` steps; otherwise `old`, with metrics that count nothing."""
    _, *rest = jax.eval_shape(update, old)
    found, _ = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), rest)
    return jax.lax.cond(step % period == 0, update, lambda old: (old, found, jnp.bool_(True)), old)
