"""The pure functions of an experiment: no mesh, no jit, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl import parallel
from jaxdl.core import rng, tree
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.experiment import Experiment
from jaxdl.core.precision import policy
from jaxdl.core.task import Batch, Params, Player
from jaxdl.metrics import reduce
from jaxdl.train import state as states
from jaxdl.train.grad import accumulate, gradient, local_steps
from jaxdl.train.state import State
from jaxdl.train.step import Step, make_step

BRANCH = 10**6
"""Parameters from which on the guard of an update is a branch on CPU (see `make_step`)."""


@dataclass(frozen=True)
class Functions:
    """What an experiment computes."""

    init: Callable[..., tuple[Any, Any]]
    """Parameters boxed with their axis names, and the model state; of another seed where one is
    given."""
    create: Callable[..., State]
    """The state before the first update; likewise."""
    step: Step
    evaluate: Callable[[State, Batch, Any], Any]
    predict: Callable[[State, Batch, Any], Any]
    players: tuple[Player, ...]


def functions(exp: Experiment, batch: Batch, *, on_cpu: bool) -> Functions:
    """The experiment's functions for batches of such shapes, in the form that suits the platform.

    Raises:
        InputError: an optimizer is missing, or the players' patterns overlap or match nothing.
    """
    precision = policy(exp.precision)
    players = exp.task.players(exp.model)

    def init(seed=exp.seed):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(batch))
        return exp.task.init(exp.model, rng.fold(rng.root(seed), "init"), zeros)

    boxed, _ = jax.eval_shape(init)
    abstract = parallel.unbox(boxed)
    txs = _optimizers(exp, players, abstract)

    def create(seed=exp.seed):
        params, model_state = parallel.unbox(init(seed))
        more = {"ema": exp.ema > 0, "scaled": precision.scaled}
        return states.create(params, model_state, players, txs, seed=seed, **more)

    def inferring(fn, rank_promotion):
        def infer(state, batch, index):
            params = precision.cast(state.params if state.ema is None else state.ema)
            key = rng.fold(state.key, "eval", index)
            with jax.numpy_rank_promotion(rank_promotion):
                return fn(exp.model, params, state.model, batch, key)

        return infer

    grad = gradient(exp.rank_promotion)
    if exp.local_rate:
        grad = local_steps(grad, exp.accumulate, exp.local_rate)
    else:
        grad = accumulate(grad, exp.accumulate, unroll=on_cpu)
        grad = parallel.pipelined(grad, exp.accumulate, exp.pipeline, exp.rank_promotion)
    if exp.collectives == "explicit":
        grad = parallel.all_reduced(grad, reduce, boxed)
    many = tree.size(abstract) > BRANCH
    numerics = {"precision": precision, "ema": exp.ema, "branch": on_cpu and many}
    sams = {p.name: getattr(attrgetter(p.optim)(exp), "sam", None) for p in players}
    return Functions(
        init=init,
        create=create,
        step=make_step(exp.task, exp.model, txs, grad=grad, sams=sams, **numerics),
        evaluate=inferring(exp.task.evaluate, exp.rank_promotion),
        predict=inferring(exp.task.predict, "allow"),
        players=players,
    )


def _optimizers(
    exp: Experiment, players: tuple[Player, ...], params: Params
) -> Mapping[str, optax.GradientTransformation]:
    """One Optax chain per player, built on its own parameters and its own number of updates."""
    paths, owner, txs = list(tree.flatten(params)), {}, {}
    for player in players:
        try:
            optim = attrgetter(player.optim)(exp)
        except AttributeError as error:
            raise InputError(
                f"player {player.name!r} takes its optimizer from {player.optim!r}, which the "
                f"experiment "
                f"lacks ({error}); make `optim` a frozen dataclass with one optimizer per player."
            ) from None
        if not hasattr(optim, "build"):
            raise InputError(
                f"{player.optim} is {type(optim).__name__}, which has no build(steps, params); "
                "name a class, as in jaxdl.optim:AdamW."
            )
        mine = [path for path in paths if tree.matches(path, player.params)]
        if not mine:
            raise InputError(
                f"player {player.name!r}: no parameter matches {player.params!r}; "
                f"{suggest(player.params, paths)}."
            )
        for path in mine:
            if owner.setdefault(path, player.name) != player.name:
                raise InputError(
                    f"players {owner[path]!r} and {player.name!r} both claim {path!r}."
                )
        updates = -(-exp.steps // player.every)
        txs[player.name] = optim.build(updates, tree.select(params, player.params))
    return txs
