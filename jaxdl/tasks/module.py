"""Calling a linen module as the tasks do: parameters and persistent state are apart.

Floating inputs take the dtype of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxdl.core import rng, tree
from jaxdl.core.errors import InputError
from jaxdl.core.precision import like
from jaxdl.core.task import Key, ModelState, Params

TRANSIENT = ("losses", "intermediates", "cache")
"""Collections that never enter the train state."""


def init(module: Any, key: Key, *inputs: Any) -> tuple[Params, ModelState]:
    """Parameters, boxed with their axis names, and persistent collections for such inputs."""
    variables = dict(module.init({"params": rng.fold(key, "params")}, *inputs))
    params = variables.pop("params", {})
    return params, {name: value for name, value in variables.items() if name not in TRANSIENT}


def train(
    module: Any, params: Params, state: ModelState, key: Key, *inputs: Any
) -> tuple[Any, ModelState]:
    """Output and new state in training mode: dropout from `key`, batch statistics updated.

    Raises:
        InputError: the module has losses of its own; `train_with_losses` returns them.
    """
    out, state, losses = train_with_losses(module, params, state, key, *inputs)
    if losses:
        raise InputError(
            f"{type(module).__name__} has losses of its own ({', '.join(sorted(losses))}), which "
            "this task does not add to its loss; LanguageModel does."
        )
    return out, state


def train_with_losses(
    module: Any, params: Params, state: ModelState, key: Key, *inputs: Any, **options: Any
) -> tuple[Any, ModelState, dict[str, Array]]:
    """As `train`, and what the module's layers sow into the collection `losses`, by name.

    `options` are arguments of the module's call.

    Shapes: a layer sows values [B] -> [L, B] of the L layers that sow under this name.
    """
    out, changed = module.apply(
        {"params": params, **state},
        *like(params, inputs),
        train=True,
        **options,
        rngs={"dropout": rng.fold(key, "dropout")},
        mutable=[*state, "losses"],
    )
    sown = tree.flatten(changed.pop("losses", {}))
    return out, {**state, **changed}, _by_name(sown, len(inputs[0]))


def infer(module: Any, params: Params, state: ModelState, *inputs: Any, **options: Any) -> Any:
    """Output in evaluation mode: no dropout, running statistics."""
    variables = {"params": params, **state}
    return module.apply(variables, *like(params, inputs), train=False, **options)


def _by_name(sown: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """Values [..., B] by path `layer/.../name/index`, those of one name together as [L, B]."""
    found: dict[str, list[Array]] = {}
    for path, values in sown.items():
        if values.shape[-1:] != (rows,):
            raise InputError(
                f"the loss {path!r} has shape {list(values.shape)}; sow a value per row, [{rows}]."
            )
        found.setdefault(path.split("/")[-2], []).append(values.reshape(-1, rows))
    return {name: jnp.concatenate(values) for name, values in found.items()}
