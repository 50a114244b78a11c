"""Where everything lies: shardings of the state and of the batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl import data, parallel
from jaxdl.core import tree
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.task import Batch, Player
from jaxdl.train.state import State


def state_shardings(
    abstract: State, boxed: tuple[Any, Any], players: tuple[Player, ...], mesh: Mesh, rules: Mapping
) -> State:
    """The NamedSharding of every leaf of the state.

    In an optimizer state a leaf shaped like its parameter takes its sharding, a factored one
    (Adafactor) drops the axes it lost, and everything else is on every device. What the rules put
    `optimizer` on divides them further (ZeRO-1), along the first dimension that allows it.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = parallel.shardings(boxed[0], mesh, rules)
    layout = jax.tree.map(lambda _: everywhere, abstract)
    opt = {}
    for player in players:
        specs = tree.flatten(tree.select(params, player.params))
        shapes = tree.flatten(tree.select(abstract.params, player.params))

        def place(path, leaf, specs=specs, shapes=shapes):
            found = [n for n in specs if f"/{tree.path_of(path)}".endswith(f"/{n}")]
            name = max(found, key=len, default=None)  # `head/kernel` also ends `lower/head/kernel`
            if not name:
                return everywhere
            return _divided(leaf, _like(leaf, shapes[name], specs[name]), rules["optimizer"])

        opt[player.name] = jax.tree_util.tree_map_with_path(place, abstract.opt[player.name])
    return layout.replace(
        params=params,
        model=parallel.shardings(boxed[1], mesh, rules),
        opt=opt,
        ema=None if abstract.ema is None else params,
    )


def on_host(layout: State) -> State:
    """`layout` with the arrays of the optimizers, but for their scalars, in the host's memory."""

    def move(sharding):
        return sharding.with_memory_kind("pinned_host") if len(sharding.spec) else sharding

    return layout.replace(opt=jax.tree.map(move, layout.opt))


def batches(exp: Experiment, mesh: Mesh, rules: Mapping) -> tuple[Batch, Batch, Mapping[str, int]]:
    """Abstract training and evaluation batches with their shardings, and the `sizes` of the data.

    Raises:
        InputError: a split is missing, empty or unlike the others, or a batch does not divide.
    """
    axes = parallel.axes_of(rules["batch"])
    parts = math.prod(mesh.shape[name] for name in axes)
    sharding = NamedSharding(mesh, PartitionSpec(axes or None))
    sources = {split: getattr(exp.data, split)() for split in ("train", "valid", "test")}
    sources = {split: source for split, source in sources.items() if source is not None}
    if "train" not in sources:
        raise InputError(f"{type(exp.data).__name__} has no training split.")
    for split, source in sources.items():
        if not len(source):
            raise InputError(f"the {split} split of {type(exp.data).__name__} is empty.")
    _divides("data.batch", exp.data.batch, parts, exp.accumulate)
    evaluated = "data.eval_batch" if exp.data.eval_batch else "data.batch"
    _divides(evaluated, size := exp.data.eval_batch or exp.data.batch, parts, 1)
    train = data.abstract(sources["train"], exp.data.batch, exp.data.transform("train"))
    held_out = {
        split: data.abstract(source, size, evaluation_transform(exp.data, split), mask=True)
        for split, source in sources.items()
        if split != "train" or len(sources) == 1
    }
    (first, spec), *others = held_out.items()
    for split, other in others:
        if other != spec:
            raise InputError(f"batches of {split} ({other}) are unlike those of {first} ({spec}).")
    train, spec = jax.tree.map(lambda x: x.update(sharding=sharding), (train, spec))
    return train, spec, getattr(sources["train"], "sizes", {})


def evaluation_transform(config: Any, split: str) -> Any:
    """What examples of `split` go through in evaluation: never the augmentation of training."""
    return config.transform("valid" if split == "train" else split)


def _divides(name: str, size: int, parts: int, times: int) -> None:
    unit = parts * times
    if size < 1 or size % unit:
        why = f"{parts} device" + "s" * (parts > 1)
        why += f" x {times} micro-batches" if times > 1 else ""
        below, above = size // unit * unit, -(-max(size, 1) // unit) * unit
        fits = " or ".join(str(n) for n in (below, above) if n)
        raise InputError(f"{name}={size} does not divide over {why}; try {fits}.")


def _divided(leaf: Any, sharding: NamedSharding, rule: Any) -> NamedSharding:
    """`sharding`, with the axes of `rule` that it does not use on one more dimension.

    Vectors stay as they are: they are small, and would draw the activations along.
    """
    mesh = sharding.mesh
    spec = [parallel.dividing(axes, mesh) for axes in sharding.spec]
    spec += [()] * (leaf.ndim - len(spec))
    used = {axis for axes in spec for axis in axes}
    more = tuple(axis for axis in parallel.dividing(rule, mesh) if axis not in used)
    parts = math.prod(mesh.shape[axis] for axis in more)
    for dim, size in enumerate(leaf.shape):
        if more and leaf.ndim > 1 and not spec[dim] and size % parts == 0:
            spec[dim] = more
            return NamedSharding(mesh, PartitionSpec(*(axes or None for axes in spec)))
    return sharding


def _like(leaf: Any, shape: Any, sharding: NamedSharding) -> NamedSharding:
    """The sharding of a leaf that kept some of its parameter's dimensions.

    Which of several equally long dimensions a factored leaf kept cannot be seen; where they are
    laid out differently, that dimension is not split.
    """
    spec = (*sharding.spec, *(None,) * (len(shape.shape) - len(sharding.spec)))
    if leaf.shape == shape.shape:
        return NamedSharding(sharding.mesh, PartitionSpec(*spec))
    kept = []
    for size in leaf.shape:
        places = {axes for length, axes in zip(shape.shape, spec, strict=True) if length == size}
        kept.append(places.pop() if len(places) == 1 else None)
    twice = [axes for axes in kept if axes is not None and kept.count(axes) > 1]
    return NamedSharding(sharding.mesh, PartitionSpec(*(None if a in twice else a for a in kept)))
