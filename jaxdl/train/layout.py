"""Where everything lies: shardings of the state and of the batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl import data, parallel
from jaxdl.core import tree
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.experiment import Experiment
from jaxdl.core.task import Batch, Player
from jaxdl.train.state import State


def state_shardings(
    abstract: State, boxed: tuple[Any, Any], players: tuple[Player, ...], mesh: Mesh, rules: Mapping
) -> State:
    """The NamedSharding of every leaf of the state.

    In an optimizer state a leaf shaped like its parameter takes its sharding, a factored one
    (Adafactor) drops the axes it lost, and everything else is on every device.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = parallel.shardings(boxed[0], mesh, rules)
    layout = jax.tree.map(lambda _: everywhere, abstract)
    opt = {}
    for player in players:
        specs = tree.flatten(tree.select(params, player.params))
        shapes = tree.flatten(tree.select(abstract.params, player.params))

        def place(path, leaf, specs=specs, shapes=shapes):
            name = next((n for n in specs if tree.path_of(path).endswith("/" + n)), None)
            return _like(leaf, shapes[name], specs[name]) if name else everywhere

        opt[player.name] = jax.tree_util.tree_map_with_path(place, abstract.opt[player.name])
    return layout.replace(
        params=params,
        model=parallel.shardings(boxed[1], mesh, rules),
        opt=opt,
        ema=None if abstract.ema is None else params,
    )


def batches(exp: Experiment, mesh: Mesh, rules: Mapping) -> tuple[Batch, Batch, Mapping[str, int]]:
    """Abstract training and evaluation batches with their shardings, and the `sizes` of the data.

    Raises:
        InputError: there is no training data, or a batch does not divide.
    """
    train = exp.data.train()
    if train is None:
        raise InputError(f"{type(exp.data).__name__} has no training split.")
    held_out = exp.data.valid() or exp.data.test() or train
    axes = rules["batch"]
    names = (axes,) if isinstance(axes, str) else axes or ()
    for name in names:
        if name not in mesh.shape:
            raise InputError(
                f"the rules put the batch on mesh axis {name!r}, which is not there; "
                f"{suggest(name, mesh.shape)}."
            )
    parts = math.prod(mesh.shape[name] for name in names)
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    found = []
    for source, split, size, times in (
        (train, "train", exp.data.batch, exp.accumulate),
        (held_out, "valid", exp.data.eval_batch or exp.data.batch, 1),
    ):
        name = "batch" if split == "train" or not exp.data.eval_batch else "eval_batch"
        _divides(f"data.{name}", size, parts, times)
        spec = data.abstract(source, size, exp.data.transform(split), mask=split != "train")
        found.append(jax.tree.map(lambda x: x.update(sharding=sharding), spec))
    return found[0], found[1], getattr(train, "sizes", {})


def _divides(name: str, size: int, parts: int, times: int) -> None:
    unit = parts * times
    if size < 1 or size % unit:
        why = f"{parts} devices" + (f" x {times} micro-batches" if times > 1 else "")
        below, above = size // unit * unit, -(-max(size, 1) // unit) * unit
        fits = " or ".join(str(n) for n in (below, above) if n)
        raise InputError(f"{name}={size} does not divide over {why}; try {fits}.")


def _like(leaf: Any, shape: Any, sharding: NamedSharding) -> NamedSharding:
    """The sharding of a leaf that kept some of its parameter's dimensions, in order."""
    spec = (*sharding.spec, *(None,) * (len(shape.shape) - len(sharding.spec)))
    kept, rest = [], list(zip(shape.shape, spec, strict=True))
    for size in leaf.shape:
        while rest and rest[0][0] != size:
            rest.pop(0)
        if not rest:
            return NamedSharding(sharding.mesh, PartitionSpec())
        kept.append(rest.pop(0)[1])
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))
