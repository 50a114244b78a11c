"""One training step, as a pure function, and the parts of it that the bit-identical mode shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.core import rng, tree
from jaxdl.core.precision import Policy
from jaxdl.core.task import Aux, Batch, GradFn, Grads, Key, Metric, ModelState, Params, Player, Sums
from jaxdl.metrics import Last, Mean
from jaxdl.optim import SAM, ema_update, rates
from jaxdl.train.scale import LossScale
from jaxdl.train.state import State

Moving = tuple[Params, ModelState, optax.OptState]
"""What a player's update changes."""
Told = tuple[Mapping[str, Metric], jax.Array]
"""What a player's update tells: metrics, and whether loss and gradient were finite."""


def make_step(
    task: Any,
    model: Any,
    txs: Mapping[str, optax.GradientTransformation],
    *,
    grad: GradFn,
    precision: Policy,
    sams: Mapping[str, SAM | None] | None = None,
    ema: float = 0.0,
    branch: bool = False,
) -> Step:
    """The step of a task's players; `txs` and `sams` are by player.

    An update whose loss or gradient is not finite is left out: by a select per array, or by a
    `branch`, which on CPU takes 45 microseconds and saves copies of the optimizer's state;
    elsewhere it would wait for the device.
    """
    players = tuple(_in_precision(player, precision) for player in task.players(model))
    return Step(players, txs, sams or {}, grad, ema, _branch if branch else _select)


@dataclass(frozen=True, eq=False)
class Step:
    """A pure `(state, batch) -> (state, metrics)`; jit it where the mesh is known.

    The players update in order, each from the parameters the one before left. Gradients are
    divided by the batch's weight in `update` and nowhere else.
    """

    players: tuple[Player, ...]
    """Their losses compute in the experiment's precision."""
    txs: Mapping[str, optax.GradientTransformation]
    sams: Mapping[str, SAM | None]
    grad: GradFn
    """At the parameters it is given: SAM comes on top."""
    ema: float
    guard: Callable
    """`(finite, updated, old)`: what `updated()` returns, or `old` where `finite` is false."""

    def __call__(self, state: State, batch: Batch) -> tuple[State, Mapping[str, Metric]]:
        """One update of every player that is due."""
        told = {}
        for player in self.players:
            advance = partial(self._advance, player, batch, self.key(state, player), state.scale)
            old = state.params, state.model, state.opt[player.name]
            new, *told[player.name] = _when_due(player.every, state.step, advance, old)
            state = moved(state, player, new)
        return self.finish(state, told)

    def key(self, state: State, player: Player) -> Key:
        """What a player draws from in this update."""
        return rng.fold(state.key, state.step, player.name)

    def update(
        self,
        player: Player,
        scale: LossScale | None,
        old: Moving,
        summed: tuple[Grads, Sums, Aux],
    ) -> tuple[Moving, Mapping[str, Metric], jax.Array]:
        """What follows on `old` from undivided sums of the loss times `scale`, and what it tells.

        The first is `old` itself where not all was finite.
        """
        params, _, opt = old
        grads, sums, (model_state, metrics) = summed
        if scale:
            grads, sums = scale.unscaled(grads, sums)
        grads = jax.tree.map(lambda g: g / sums.weight, grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(sums.total)

        def updated():
            mine = tree.select(params, player.params)
            updates, state = self.txs[player.name].update(grads, opt, mine)
            return tree.merge(params, optax.apply_updates(mine, updates)), model_state, state

        new = self.guard(finite, updated, old)
        found = {"loss": Mean.from_sums(sums), "grad_norm": _where(finite, norm)}
        for rate in rates(new[2])[:1]:
            found["lr"] = Last.of(rate.value)
        return new, found | metrics, finite

    def finish(self, state: State, told: Mapping[str, Told]) -> tuple[State, Mapping[str, Metric]]:
        """The state when all players have moved, of which each has `told`, and all metrics."""
        metrics, finite = {}, jnp.bool_(True)
        for name, (found, fine) in told.items():
            metrics |= {n if name == "main" else f"{name}.{n}": m for n, m in found.items()}
            finite &= fine
        if state.scale:
            metrics["loss_scale"] = Last.of(state.scale.value)
        metrics["skipped"] = Mean(total=1.0 - finite.astype(jnp.float32), weight=jnp.float32(1))
        state = state.replace(
            counters=state.counted(finite),
            ema=ema_update(state.ema, state.params, self.ema) if self.ema else None,
            scale=state.scale.after(finite) if state.scale else None,
        )
        return state, metrics

    def _advance(
        self, player: Player, batch: Batch, key: Key, scale: LossScale | None, old: Moving
    ) -> tuple[Moving, Mapping[str, Metric], jax.Array]:
        sam = self.sams.get(player.name)
        grad = sam.wrap(self.grad) if sam else self.grad
        summed = grad(scale.wrap(player) if scale else player, *old[:2], batch, key)
        return self.update(player, scale, old, summed)


def moved(state: State, player: Player, new: Moving) -> State:
    """`state` with what a player's update changed."""
    params, model_state, opt = new
    opt = {**state.opt, player.name: opt}
    return state.replace(params=params, model=model_state, opt=opt)


def _in_precision(player: Player, precision: Policy) -> Player:
    """`player` with its loss computed from the parameters in the compute dtype."""
    return replace(player, loss=lambda params, *rest: player.loss(precision.cast(params), *rest))


def _where(finite: jax.Array, value: jax.Array) -> Mean:
    return Mean(total=jnp.where(finite, value, 0.0), weight=finite.astype(jnp.float32))


def _select(finite: jax.Array, new: Callable, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new(), old)


def _branch(finite: jax.Array, new: Callable, old: Any) -> Any:
    return jax.lax.cond(finite, new, lambda: old)


def _when_due(every: int, step: jax.Array, update: Callable, old: Any) -> Any:
    """`update(old)` once in `every` steps; otherwise `old`, with metrics that count nothing."""
    if every == 1:
        return update(old)
    _, found, _ = jax.eval_shape(update, old)
    found = nothing(found)
    return jax.lax.cond(step % every == 0, update, lambda old: (old, found, jnp.bool_(True)), old)


def nothing(shapes: Any) -> Any:
    """Metric states of such shapes that count nothing."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
