"""Calling a linen module as the tasks do: parameters and persistent state are apart.

Floating inputs take the dtype of the parameters.
"""

from __future__ import annotations

from typing import Any

from jaxdl.core import rng
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
    """Output and new state in training mode: dropout from `key`, batch statistics updated."""
    out, changed = module.apply(
        {"params": params, **state},
        *like(params, inputs),
        train=True,
        rngs={"dropout": rng.fold(key, "dropout")},
        mutable=list(state),
    )
    return out, {**state, **changed}


def infer(module: Any, params: Params, state: ModelState, *inputs: Any) -> Any:
    """Output in evaluation mode: no dropout, running statistics."""
    return module.apply({"params": params, **state}, *like(params, inputs), train=False)
