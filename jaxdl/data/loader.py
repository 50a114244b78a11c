"""From a source to batches: batch n is a pure function of (source, seed, n)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdl.core.errors import InputError
from jaxdl.core.source import Examples, Plan, Source, Transform
from jaxdl.core.task import Batch
from jaxdl.data.draws import Draws
from jaxdl.data.order import sequential, shuffled

ROWS = P("data")
"""Rows over the mesh axis `data`."""


def batches(
    source: Source,
    *,
    batch: int,
    seed: int,
    plan: Plan | None = None,
    transform: Transform | None = None,
    epochs: int | None = None,
    shuffle: bool = True,
    mesh: Mesh | None = None,
    spec: P = ROWS,
    rows: np.ndarray | None = None,
) -> Callable[[int], Batch]:
    """`get(n) -> batch n`, whose row i is the run's example e = n * batch + i, in any order of n.

    Example e is source item `plan(seed, e)`, by default shuffled anew each epoch of len(source),
    sent through `transform(examples, Draws(seed, e))`: its content depends on (seed, e) alone.

    A number of epochs adds `mask` [B] float32 to every batch (times the examples' own, if they have
    one) and fills the last batch with copies of the last example, masked out. None never ends.

    With a mesh, leaves are global arrays whose leading dimension is split as `spec` says, and each
    process reads only the rows of its own devices. Without one they are numpy arrays, of `rows` [m]
    where these are given.

    Shapes: every leaf [batch, ...]; 64-bit leaves become 32-bit unless jax_enable_x64 is set.
    Raises: InputError for an empty source or sizes that do not fit; IndexError, from `get`, outside
    range(count(source, batch, epochs)).
    """
    if batch < 1 or not len(source):
        raise InputError(f"batch={batch} of a source of {len(source)} examples: nothing to load.")
    if epochs is not None and epochs < 1:
        raise InputError(f"epochs={epochs} must be at least 1, or None for no end.")
    plan = plan or (shuffled if shuffle else sequential)(len(source))
    stop = math.inf if epochs is None else count(source, batch, epochs)
    last = None if epochs is None else epochs * len(source) - 1
    sharding = None if mesh is None else batch_sharding(mesh, batch, spec)
    if rows is None:
        rows = np.arange(batch) if sharding is None else local_rows(sharding, batch)

    def get(n: int) -> Batch:
        if not 0 <= n < stop:
            raise IndexError(f"batch {n} is outside [0, {stop}).")
        e = n * batch + rows
        if last is None:
            return load(source, seed, e, plan, transform)
        examples = load(source, seed, np.minimum(e, last), plan, transform)
        return examples | {"mask": (e <= last) * np.float32(examples.get("mask", 1))}

    return get if sharding is None else placed(get, sharding, batch)


def placed(
    get: Callable[[int], Batch], sharding: NamedSharding, batch: int
) -> Callable[[int], Batch]:
    """`get(n)`, of this process's rows of batch n, as global arrays [batch, ...]."""

    def get_placed(n: int) -> Batch:
        return {name: _globally(leaf, sharding, batch) for name, leaf in get(n).items()}

    return get_placed


def count(source: Source, batch: int, epochs: int = 1) -> int:
    """The number of batches of `epochs` epochs, the ragged last one included."""
    return -(-epochs * len(source) // batch)


def load(
    source: Source, seed: int, e: np.ndarray, plan: Plan, transform: Transform | None = None
) -> dict[str, np.ndarray]:
    """The run's examples `e` [m] int64, stacked and transformed: every leaf [m, ...] on this host.

    Raises: InputError when the transform changes the number of examples.
    """
    return _transformed(_take(source, plan(seed, e)), Draws(seed, e), transform)


def abstract(
    source: Source, batch: int, transform: Transform | None = None, mask: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `batches` gives, without reading the source; `mask` as with a number of epochs.

    Runs the transform on one example of zeros; touches no device.
    """
    zeros = {name: np.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in source.spec.items()}
    one = _transformed(zeros, Draws(0, np.zeros(1, np.int64)), transform)
    if mask:
        one["mask"] = np.ones(1, np.float32)
    return {k: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for k, x in one.items()}


def batch_sharding(mesh: Mesh, batch: int, spec: P = ROWS) -> NamedSharding:
    """The sharding of a batch's leading dimension over `spec`; other dimensions stay whole.

    Raises: InputError when the mesh lacks an axis of `spec`, or its size does not divide `batch`.
    """
    if len(spec) > 1:
        raise InputError(f"{spec} shards more than the leading dimension of a batch.")
    entry = spec[0] if len(spec) else None
    axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
    if missing := [axis for axis in axes if axis not in mesh.shape]:
        raise InputError(f"the mesh has no axis {missing[0]!r}; it has {dict(mesh.shape)}.")
    shards = math.prod(mesh.shape[axis] for axis in axes)
    if batch % shards:
        below, above = batch // shards * shards, -(-batch // shards) * shards
        fit = f"{below} or {above}" if below else str(above)
        raise InputError(
            f"batch={batch} is not divisible by the {shards} shards of {axes}; try {fit}."
        )
    return NamedSharding(mesh, spec)


def local_rows(
    sharding: NamedSharding, batch: int, devices: Iterable[jax.Device] | None = None
) -> np.ndarray:
    """The rows of a batch that `devices` hold (by default this process's), sorted, int64."""
    held = sharding.devices_indices_map((batch,))
    mine = sharding.addressable_devices if devices is None else devices
    return np.unique(np.concatenate([np.arange(batch)[held[device]] for device in mine]))


def _take(source: Source, indices: np.ndarray) -> Examples:
    if hasattr(source, "take"):
        return source.take(indices)
    examples = [source[int(i)] for i in indices]
    shapes = [{name: np.shape(leaf) for name, leaf in example.items()} for example in examples]
    for i, found in zip(indices, shapes, strict=True):
        if found != shapes[0]:
            raise InputError(
                f"example {i} has the shapes {found}, example {indices[0]} {shapes[0]}; "
                "make them alike in the source."
            )
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _transformed(examples: Examples, rng: Draws, transform: Any) -> dict[str, np.ndarray]:
    out = dict(examples) if transform is None else transform(dict(examples), rng)
    out = {name: np.asarray(leaf) for name, leaf in out.items()}
    for name, leaf in out.items():
        if leaf.shape[:1] != rng.examples.shape:
            raise InputError(
                f"{transform} made {name!r} {list(leaf.shape)}; "
                f"a transform must keep the {len(rng.examples)} examples it is given."
            )
    return {name: _narrowed(name, leaf) for name, leaf in out.items()}


def _narrowed(name: str, leaf: np.ndarray) -> np.ndarray:
    """What a device would do to 64-bit leaves, so that host and device batches agree."""
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    if dtype != leaf.dtype and leaf.size and np.issubdtype(dtype, np.integer):
        held = np.iinfo(dtype)
        if leaf.min() < held.min or leaf.max() > held.max:
            raise InputError(
                f"{name!r} has values {leaf.min()} to {leaf.max()}, which {dtype} cannot hold; "
                "map them to smaller ones."
            )
    return leaf.astype(dtype, copy=False)


def _globally(leaf: np.ndarray, sharding: NamedSharding, batch: int) -> jax.Array:
    return jax.make_array_from_process_local_data(sharding, leaf, (batch, *leaf.shape[1:]))
