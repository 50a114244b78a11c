"""The bit-identical mode: the same bits on any number of devices, along `data` and `fsdp`.

A batch is cut into virtual shards of consecutive rows, whose number belongs to the experiment. A
step is a row of programs, of which none sums over devices in an order of the compiler's choosing:

    whole   the state on every device                        movement
    cut     a virtual shard for each device, in turns        movement
    shard   gradient of one virtual shard                    of one device
    add     gradients in the order of the virtual shards     additions, one after the other
    update  division, clip, optimizer, guard, average        of one device, alike on each
    lay     the new state where it belongs                   movement

What computes is compiled for one device alone, with the same shapes on every mesh: even under
`shard_map` XLA compiles a mesh of one device otherwise than larger ones. Additions have a program
of their own, since a product beside them may be contracted into a fused multiply-add.

Under FSDP the state is divided at rest only: during the step it is whole on every device. What a
loss or a layer takes over a batch (BatchNorm's statistics, the balance of a mixture's experts) is
of a virtual shard; running statistics are the mean over the shards. So the numbers are not those of
plain mode, nor those of another number of virtual shards. Evaluation is that of plain mode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdl.core import rng, tree
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.task import Aux, Batch, Grads, Player, Sums
from jaxdl.metrics import reduce
from jaxdl.train.packed import Packed, pack
from jaxdl.train.state import State
from jaxdl.train.step import Step, moved, nothing

AXES = ("data", "fsdp")
"""The mesh axes over which virtual shards are dealt out."""
Vectors = Mapping[str, jax.Array]
"""A tree's leaves end to end, by dtype: every array costs every device of every program time."""
Summed = tuple[Vectors, Vectors]
"""Gradients, and what else a loss gives: sums, model state and metrics."""


def check_deterministic(exp: Experiment, mesh: Mesh) -> None:
    """Refuses what would make the bits depend on the mesh; nothing in plain mode.

    Raises:
        InputError: on another mesh axis, explicit collectives, or numbers that do not divide.
    """
    shards, batch = exp.deterministic_shards, exp.data.batch
    if not shards:
        return
    for name, size in mesh.shape.items():
        if size > 1 and name not in AXES:
            raise InputError(
                f"deterministic_shards={shards} does not work with mesh.{name}={size}: sums inside "
                "the model would be taken over devices, in an order that depends on the mesh; "
                f"use mesh.data={mesh.size} or mesh.fsdp={mesh.size}, or deterministic_shards=0."
            )
    if exp.optimizer_memory == "host":
        raise InputError(
            f"deterministic_shards={shards} has the whole state on every device in each step; set "
            "optimizer_memory=device."
        )
    if exp.collectives == "explicit":
        raise InputError(
            f"deterministic_shards={shards} adds in an order of its own, which no collective does; "
            "set collectives=automatic."
        )
    if shards % mesh.size:
        raise InputError(
            f"deterministic_shards={shards} does not divide over {mesh.size} devices; "
            f"try {_near(shards, mesh.size)}."
        )
    if batch % (unit := shards * exp.accumulate):
        parts = f" x {exp.accumulate} micro-batches" if exp.accumulate > 1 else ""
        raise InputError(
            f"data.batch={batch} does not divide over {shards} virtual shards{parts}; "
            f"try {_near(batch, unit)}."
        )


class Deterministic:
    """`(state, batch) -> (state, metrics)`, as `Program.step`; the metrics are `Packed`.

    It can be called, and traced by `eval_shape`, but not lowered: it is no single program.
    """

    def __init__(self, step: Step, abstract: State, batch: Batch, shards: int, cut: Callable):
        """`abstract` and `batch` are shapes with shardings; `cut` jits the program that cuts."""
        self._step, self._shards, self._abstract = step, shards, abstract
        self._mesh = mesh = abstract.counters.sharding.mesh
        everywhere = NamedSharding(mesh, P())
        layout = jax.tree.map(lambda x: x.sharding, abstract)
        self._whole = jax.jit(_vectors, out_shardings=everywhere)
        self._lay = jax.jit(self._state, out_shardings=layout)
        self._cut = cut(_on_devices(self._cut_batch, mesh, P(AXES), P(AXES)))
        self._add = jax.jit(_on_devices(self._added, mesh, P(AXES), P()))
        self._shapes = {p.name: self._shapes_of(p, batch) for p in step.players}
        self._shard, self._ascend, self._update = {}, {}, {}
        for player in step.players:
            name, given = player.name, functools.partial
            self._shard[name] = _Alone(given(self._vectors_of_shard, player), mesh, P(AXES))
            self._ascend[name] = _Alone(given(self._ascended, player), mesh, P())
            for due in (True, False):
                update = given(self._updated, player, due)
                self._update[name, due] = _Alone(update, mesh, P(), donate=True)

    def __call__(self, state: State, batch: Batch) -> tuple[State, Packed]:
        """One update."""
        players = self._step.players
        step = int(state.step) if any(p.every > 1 for p in players) else 0
        vectors, parts, told = self._whole(state), self._cut(batch), {}
        for player in players:
            due = step % player.every == 0
            summed = self._summed(player, vectors, parts) if due else ()
            vectors, told = self._update[player.name, due](vectors, told, *summed)
        return self._lay(vectors), told

    def first(self, create: Callable[[], State]) -> Callable[[], State]:
        """`create`, computed by each device for itself and laid out."""
        whole = _Alone(lambda _: _vectors(create()), self._mesh, P())
        here = jax.jit(lambda: jnp.int32(0), out_shardings=NamedSharding(self._mesh, P()))
        return lambda: self._lay(whole(here()))

    def eval_shape(self, state: State, batch: Batch) -> tuple[State, Packed]:
        """Shapes of what a call returns."""

        def step(state, summed):
            told = {}
            for player in self._step.players:
                old = state.params, state.model, state.opt[player.name]
                given = player, state.scale, old, summed[player.name]
                new, *told[player.name] = self._step.update(*given)
                state = moved(state, player, new)
            state, metrics = self._step.finish(state, told)
            return state, pack(metrics)

        del batch
        return jax.eval_shape(step, state, self._shapes)

    def lower(self, *_: Any) -> Any:
        """Raises InputError: there is no single program to be lowered."""
        raise InputError(
            "the bit-identical mode is a row of programs, which cannot be compiled as one; set "
            "deterministic_shards=0 to look at the step of plain mode."
        )

    def _summed(self, player: Player, vectors: Vectors, parts: Sequence[Any]) -> Summed:
        """Of the player's loss at the parameters of the state, or at those that SAM ascends to."""

        def at(vectors: Vectors) -> Summed:
            return self._add([self._shard[player.name](vectors, *part) for part in parts])

        grads, rest = at(vectors)
        if self._step.sams.get(player.name):
            grads, _ = at(self._ascend[player.name](vectors, grads))
        return grads, rest

    def _state(self, vectors: Vectors) -> State:
        return _restored(self._abstract, vectors)

    def _shapes_of(self, player: Player, batch: Batch) -> tuple[Grads, Sums, Aux]:
        """Of what the player's loss gives on one virtual shard."""

        def part(x):
            return jax.ShapeDtypeStruct((x.shape[0] // self._shards, *x.shape[1:]), x.dtype)

        rows = {name: part(x) for name, x in batch.items()}
        number = jax.ShapeDtypeStruct((1,), jnp.int32)
        undivided = functools.partial(self._undivided, player)
        return jax.eval_shape(undivided, self._abstract, number, rows)

    # What the programs do, in the order of the step; arrays are what one device holds of them.

    def _cut_batch(self, batch: Batch) -> list[tuple[jax.Array, Batch]]:
        """Of each turn this device's virtual shard, behind its number [1]."""
        turns = self._shards // self._mesh.size
        first = jax.lax.axis_index(AXES) * turns
        rows = {name: jnp.split(x, turns) for name, x in batch.items()}
        return [
            ((first + i)[None], {name: parts[i] for name, parts in rows.items()})
            for i in range(turns)
        ]

    def _vectors_of_shard(self, player, vectors, number, rows):
        """What the player's loss gives on one virtual shard, as vectors [1, n]."""
        grads, *rest = self._undivided(player, self._state(vectors), number, rows)
        return jax.tree.map(lambda x: x[None], (_vectors(grads), _vectors(rest)))

    def _undivided(self, player, state, number, rows):
        key = rng.fold(self._step.key(state, player), number[0])
        scaled = state.scale.wrap(player) if state.scale else player
        return self._step.grad(scaled, state.params, state.model, rows, key)

    def _added(self, parts: Sequence[Summed]) -> Summed:
        """Gradients [n], added, and the rest of all virtual shards [shards, n], from this device's
        results [1, n] of each turn.
        """
        grads, rest = jax.tree.map(lambda *turns: jnp.concatenate(turns), *parts)
        rest = jax.tree.map(lambda x: jax.lax.all_gather(x, AXES, tiled=True), rest)
        return jax.tree.map(self._added_in_order, grads), rest

    def _added_in_order(self, x: jax.Array) -> jax.Array:
        """The sum [n] over all virtual shards, of which x [turns, n] are here.

        Each device adds a stretch of the vector.
        """
        (turns, size), devices = x.shape, self._mesh.size
        x = jnp.pad(x, ((0, 0), (0, -size % devices))).reshape(turns, devices, -1)
        x = jax.lax.all_to_all(x, AXES, split_axis=1, concat_axis=0)
        total = functools.reduce(jnp.add, x.reshape(self._shards, -1))
        return jax.lax.all_gather(total, AXES, tiled=True)[:size]

    def _ascended(self, player, vectors, grads):
        """The state, the player's parameters ascended along their gradient."""
        state = self._state(vectors)
        mine = tree.select(state.params, player.params)
        grads = _restored(self._shapes[player.name][0], grads)
        ascended = self._step.sams[player.name].ascend(mine, grads)
        return _vectors(state.replace(params=tree.merge(state.params, ascended)))

    def _updated(self, player, due, vectors, told, *summed):
        """The state after the player's turn, and what it and those before it told; after the last
        player, the state of the next step and all metrics.
        """
        state = self._state(vectors)
        old = state.params, state.model, state.opt[player.name]
        follow = functools.partial(self._step.update, player, state.scale, old)
        if due:
            new, found, fine = follow(self._together(player, *summed))
            state = moved(state, player, new)
        else:
            _, found, _ = jax.eval_shape(follow, self._shapes[player.name])
            found, fine = nothing(found), jnp.bool_(True)
        told = told | {player.name: (found, fine)}
        if player is self._step.players[-1]:
            state, metrics = self._step.finish(state, told)
            told = pack(metrics)
        return _vectors(state), told

    def _together(self, player: Player, grads: Vectors, rest: Vectors) -> tuple[Grads, Sums, Aux]:
        """What plain mode computes for a batch at once. Floats of the model state are the mean over
        the virtual shards, other leaves those of the first.
        """
        shapes, *others = self._shapes[player.name]
        sums, (model_state, metrics) = _restored(others, rest)
        sums = jax.tree.map(lambda x: x.sum(0), sums)
        model_state = jax.tree.map(_mean_or_first, model_state)
        metrics = {name: reduce(states) for name, states in metrics.items()}
        return _restored(shapes, grads), sums, (model_state, metrics)


class _Alone:
    """`fn`, run by each device of this process on what it holds; compiled for one device alone.

    Results are put together along the leading dimension, or taken to be alike, as `result` says.
    Where one CPU plays several devices, its first runs for all: it need not be compiled for each.
    """

    def __init__(self, fn: Callable, mesh: Mesh, result: P, *, donate: bool = False):
        one = Mesh(mesh.devices[(slice(1),) * mesh.devices.ndim], mesh.axis_names)
        # Under a mesh that is taken, of no particular device, model code is that of one device.
        alone = _on_devices(fn, one.abstract_mesh, P(), P())
        # An argument tells the device, even where it is not used.
        self._program = jax.jit(alone, donate_argnums=(0,) if donate else (), keep_unused=True)
        self._sharding = NamedSharding(mesh, result)
        self._times = mesh.size if len(result) else 1
        self._emulated = mesh.devices.flat[0].platform == "cpu"

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        devices = [shard.device for shard in leaves[0].addressable_shards]
        pieces = zip(*(self._pieces(x, devices[0]) for x in leaves), strict=True)
        if self._emulated and self._times == 1:
            pieces = islice(pieces, 1)
        found = [self._program(*jax.tree.unflatten(structure, mine)) for mine in pieces]
        return jax.tree.map(functools.partial(self._put_together, devices), *found)

    def _pieces(self, x: jax.Array, first: jax.Device) -> list[jax.Array]:
        """What each device holds, where it is to be computed with."""
        pieces = [shard.data for shard in x.addressable_shards]
        if not self._emulated:
            return pieces
        if x.is_fully_replicated:
            return pieces[:1] * len(pieces)
        return [jax.device_put(piece, first) for piece in pieces]

    def _put_together(self, devices: Sequence[jax.Device], *pieces: jax.Array) -> jax.Array:
        shape = pieces[0].shape
        if self._times > 1:
            shape = (shape[0] * self._times, *shape[1:])
        if self._emulated:
            pieces = tuple(map(jax.device_put, cycle(pieces), devices))
        return jax.make_array_from_single_device_arrays(shape, self._sharding, pieces)


def _on_devices(fn: Callable, mesh: Any, given: P, result: P) -> Callable:
    """`fn` of what a device holds of arrays divided so."""
    # What every device computes alike is the same there, which the check cannot see.
    return jax.shard_map(fn, mesh=mesh, in_specs=given, out_specs=result, check_vma=False)


def _mean_or_first(x: jax.Array) -> jax.Array:
    return x.mean(0) if jnp.issubdtype(x.dtype, jnp.floating) else x[0]


def _vectors(tree: Any) -> Vectors:
    """The leaves end to end, by dtype."""
    found: dict[str, list] = {}
    for leaf in jax.tree.leaves(tree):
        found.setdefault(str(leaf.dtype), []).append(leaf.ravel())
    return {dtype: jnp.concatenate(parts) for dtype, parts in found.items()}


def _restored(shapes: Any, vectors: Vectors) -> Any:
    """The tree of `_vectors`, whose leaves have the vectors' leading dimensions too."""
    leaves, structure = jax.tree.flatten(shapes)
    at, found = dict.fromkeys(vectors, 0), []
    for leaf in leaves:
        dtype, size = str(leaf.dtype), math.prod(leaf.shape)
        part = vectors[dtype][..., at[dtype] : at[dtype] + size]
        found.append(part.reshape(*part.shape[:-1], *leaf.shape))
        at[dtype] += size
    return jax.tree.unflatten(structure, found)


def _near(size: int, unit: int) -> str:
    """The multiples of `unit` next to `size`."""
    below = size // unit * unit
    return " or ".join(str(n) for n in (below, below + unit) if n)
