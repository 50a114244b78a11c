"""A loss, cut at its Stack: what comes before the layers, those of each stage, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxdl.core import microbatch, tree
from jaxdl.core.errors import InputError
from jaxdl.core.task import Batch, Grads, Key, Metric, Params, Player, Sums
from jaxdl.parallel.pipeline_schedule import Schedule, Work

PIPE = "pipe"
Keys = Mapping[str, Array]
"""Of each random stream, one key per layer."""
Totals = tuple[Sums, Mapping[str, Metric]]
Found = tuple[Grads, Sums, Mapping[str, Metric]]


@dataclass(frozen=True)
class Layers:
    """The layers of a Stack, in the middle of a loss."""

    path: str
    """Of the Stack in the module that the loss applies: `blocks`."""
    params: Params
    """As the loss gives them, stacked."""
    keys: Keys
    apply: Callable[[Params, Array, Keys], Array]
    """As many of the layers as it is given parameters and keys for."""


Run = Callable[[Layers, Array], Array]
"""From a Stack's layers and input to its output."""
_run: ContextVar[Run | None] = ContextVar("run", default=None)


def staged() -> Run | None:
    """What runs a Stack's layers here in its place, if anything does."""
    return _run.get()


@contextmanager
def _running(run: Run | None) -> Iterator[None]:
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


def cut(schedule: Schedule, player: Player, params: Params, batch: Batch, key: Key) -> Cut:
    """Traces the loss without its layers, to see what there is to divide.

    Raises:
        InputError: there is not one Stack, its depth does not divide, or the loss also uses the
            parameters of its layers by itself.
    """
    found = []

    def run(layers, x):
        found.append((layers, jax.ShapeDtypeStruct(x.shape, x.dtype)))
        return x

    def loss(params):
        given = microbatch.micro_batch(batch, key, 0, schedule.micro_batches)
        sums, (_, metrics) = player.loss(params, {}, *given)
        return sums, metrics

    with _running(run):
        jaxpr, totals = jax.make_jaxpr(loss, return_shape=True)(params)
    if len(found) != 1:
        raise InputError(
            f"a pipeline divides the one Stack of a loss, but that of player {player.name!r} has "
            f"{len(found)}; set mesh.pipe=1."
        )
    layers, x = found[0]
    path, used = _path_in(params, layers.path), _used(jaxpr.jaxpr)
    names = [name for name, use in zip(tree.flatten(params), used, strict=True) if use]
    if own := [name for name in names if name.startswith(f"{path}/")]:
        raise InputError(
            f"the loss of player {player.name!r} uses {own[0]!r} outside of its layer, where a "
            "pipeline has none of it; set mesh.pipe=1."
        )
    _check_depth(schedule, jax.tree.leaves(layers.params)[0].shape[0])
    dtypes = jax.tree.map(lambda p: p.dtype, layers.params)
    return Cut(schedule, player, params, batch, key, path, layers.apply, dtypes, x, totals)


@dataclass(frozen=True)
class Cut:
    """One loss, cut at its layers."""

    schedule: Schedule
    player: Player
    params: Params
    batch: Batch
    key: Key
    path: str
    """Of the Stack in the whole tree of parameters."""
    apply: Callable[[Params, Array, Keys], Array]
    dtypes: Any
    """In which the loss gives the layers their parameters."""
    x: jax.ShapeDtypeStruct
    """The features of one micro-batch."""
    totals: Totals
    """Shapes of sums and metrics."""

    def parts(self) -> tuple[Params, Params]:
        """The player's parameters: those of the layers, dealt to the stages, and the others."""
        mine = tree.select(self.params, self.player.params)
        layers = tree.select(mine, f"{self.path}/*")
        return self.dealt(layers), _without(mine, self.path.split("/"))

    def dealt(self, layers: Params, *, back: bool = False) -> Params:
        """Chunks of layers like cards, to one stage after the other, or put `back` in order."""
        size = self.schedule.chunks, self.schedule.stages
        rows, columns = reversed(size) if back else size

        def deal(p):
            return p.reshape(rows, columns, -1, *p.shape[1:]).swapaxes(0, 1).reshape(p.shape)

        return layers if 1 in size else jax.tree.map(deal, layers)

    def loss(self, others: Params, i: Array, run: Run) -> Totals:
        """Sums and metrics of micro-batch i."""
        parts = self.schedule.micro_batches
        given = microbatch.micro_batch(self.batch, self.key, i, parts)
        with _running(run):
            sums, (_, metrics) = self.player.loss(tree.merge(self.params, others), {}, *given)
        return sums, metrics

    def before(self, others: Params, i: Array) -> tuple[Array, Keys]:
        """What the layers get of micro-batch i: features, and keys as words."""
        given = []

        def run(layers, x):
            given.extend((x, jax.tree.map(jax.random.key_data, layers.keys)))
            return x

        self.loss(others, i, run)
        return tuple(given)

    def after(self, others: Params, y: Array, i: Array) -> tuple[Array, Totals]:
        """What the loss makes of the features of micro-batch i; first what has a gradient."""
        sums, metrics = self.loss(others, i, lambda layers, x: y)
        return sums.total, (sums, metrics)

    def chunk(self, stage: Array, layers: Params, x: Array, keys: Keys, work: Work) -> Array:
        """Features after the layers of one chunk; in a stage. `keys` are those of all layers."""
        chunks = self.schedule.chunks
        params = reduce(getitem, self.path.split("/"), tree.merge(self.params, layers))

        def chosen(p, dtype):
            return p.reshape(chunks, -1, *p.shape[1:])[work.chunk].astype(dtype)

        params = jax.tree.map(chosen, params, self.dtypes)
        depth = jax.tree.leaves(params)[0].shape[0]
        start = (work.chunk * self.schedule.stages + stage) * depth

        def of_chunk(words):
            return jax.random.wrap_key_data(jax.lax.dynamic_slice_in_dim(words, start, depth))

        return self.apply(params, x, jax.tree.map(of_chunk, keys))

    def on_stages(
        self, fn: Callable[..., Any], layers: Params, others: Params, out_specs: Any
    ) -> Any:
        """`fn(cut, stage, layers, others)` on each stage, whose cut and layers are its own."""

        def run(stage, own, layers, rest, others, batch, words):
            key = jax.random.wrap_key_data(words, impl=jax.random.key_impl(self.key))
            mine = replace(self, params=tree.merge(rest, own), batch=batch, key=key)
            return fn(mine, stage[0], layers, others)

        mapped = jax.shard_map(
            run,
            in_specs=(*3 * (P(PIPE),), *4 * (P(),)),
            out_specs=out_specs,
            axis_names={PIPE},
            # Kernels declare no varying axes, which the check would demand of them.
            check_vma=False,
        )
        own = self.dealt(tree.select(self.params, f"{self.path}/*"))
        rest = _without(self.params, self.path.split("/"))
        stages, words = jnp.arange(self.schedule.stages), jax.random.key_data(self.key)
        return mapped(stages, own, layers, rest, others, self.batch, words)

    def send(self, x: Array, step: int) -> Array:
        """Of the stage that many before this one; in a stage."""
        stages = self.schedule.stages
        return jax.lax.ppermute(x, PIPE, [(i, (i + step) % stages) for i in range(stages)])

    def features(self, *count: int) -> Array:
        """So many, of zeros."""
        return jnp.zeros((*count, *self.x.shape), self.x.dtype)


def zeros(shapes: Any) -> Any:
    """Arrays of these shapes."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _without(params: Params, path: list[str]) -> Params:
    """A nested dict without what lies at `path`."""
    name, *rest = path
    kept = {k: v for k, v in params.items() if k != name}
    return kept | {name: _without(params[name], rest)} if rest and name in params else kept


def _used(jaxpr: Any) -> list[bool]:
    """Which inputs of a program its outputs depend on."""
    needed = set(map(id, jaxpr.outvars))
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in needed for v in eqn.outvars):
            needed.update(map(id, eqn.invars))
    return [id(v) in needed for v in jaxpr.invars]


def _path_in(params: Params, path: str) -> str:
    """The place of `path`, that of a module's layers, in the whole tree of parameters."""
    whole = [f"/{name}" for name in tree.flatten(params) if f"/{path}/" in f"/{name}"]
    places = {name[1 : name.index(f"/{path}/") + len(path) + 1] for name in whole}
    if len(places) != 1:
        raise InputError(
            f"{' and '.join(sorted(places))} could be the layers of a pipeline; give the Stacks "
            "different names."
        )
    return places.pop()


def _check_depth(schedule: Schedule, depth: int) -> None:
    parts = schedule.stages * schedule.chunks
    if depth % parts:
        below, above = depth // parts * parts, -(-depth // parts) * parts
        stages = f"{schedule.stages} stages" + f" of {schedule.chunks} chunks" * (
            parts > schedule.stages
        )
        raise InputError(
            f"depth={depth} does not divide into {stages}; try "
            f"{' or '.join(str(n) for n in (below, above) if n)}."
        )
