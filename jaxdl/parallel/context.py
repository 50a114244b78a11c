"""Attention whose positions are divided over devices: rings, and heads for positions.

B batch, T queries, S keys, H heads, G heads of keys and values, K head size; R devices hold the
positions of one sequence, t = T / R each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.kernels.flash_attention import DropWeights
from jaxdl.parallel.placement import Rules, axes_of, over_single, spec
from jaxdl.parallel.ring import Ring
from jaxdl.parallel.rules import context, device_kind, free_axes

WEIGHTS = ("batch", "act_heads", "time", None)


def context_parallel(
    attend: Callable[..., Array],
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    drop: DropWeights | None = None,
    *,
    causal: bool = False,
) -> Array:
    """`attend(q, k, v, mask, drop, causal=causal)`, whose `time` the rules may divide.

    The rule `context` says how: `ring` passes keys and values round (Liu et al. 2023,
    arXiv:2310.01889), and deals out the positions so that causal work is equal everywhere;
    `all_to_all` gives each device all positions of some heads (Jacobs et al. 2023,
    arXiv:2309.14509). The first runs the attention kernel itself where two devices' positions
    meet, the second `attend`. `drop` falls on the same weights as it does on one device.

    Shapes: q [B, T, H, K], k and v [B, S, G, K], mask [1 or B, 1 or H, 1 or T, S] -> [B, T, H, K].

    Raises:
        InputError: the positions or heads do not divide.
    """
    here = context()
    axes = axes_of(here[1]["time"]) if here else ()
    count = math.prod(here[0].shape[axis] for axis in axes) if here else 1
    if count == 1:
        return attend(q, k, v, mask, drop, causal=causal)
    mesh, rules = here
    rate, seeds = (drop.rate, drop.seeds[..., None, None]) if drop else (0.0, None)
    if rules["context"] == "ring":
        _check_positions(q.shape[1], count, causal)
        local, weights_rules = Ring(axes, count, causal, rate, device_kind()), rules
    else:
        heads = axes_of(rules["act_heads"])
        _check_heads(q.shape[2] // math.prod(mesh.shape[axis] for axis in heads), count)
        local = partial(_heads_for_positions, attend, axes, count, causal, rate)
        weights_rules = rules | {"time": None, "act_heads": (*heads, *axes)}
    # Every device drops for its heads and positions what one device would: no weights travel.
    return _per_shard(local, (q, k, v), (mask, seeds), mesh, rules, weights_rules)


def _per_shard(
    local: Callable[..., Array],
    features: tuple[Array, ...],
    weights: tuple[Array | None, ...],
    mesh: AbstractMesh,
    rules: Rules,
    weights_rules: Rules,
) -> Array:
    """`local(*features, *weights)` on local blocks; each of `weights` is None, or of all pairs of
    positions, of which a dimension may be 1.
    """

    def of_features(x: Array) -> PartitionSpec:
        # Keys and values lie as the queries' heads do that look at them.
        placed = spec(("batch", "time", "act_heads", None), x.shape, mesh, rules, "attention")
        return over_single(placed, mesh, free_axes(mesh))

    def of_weights(x: Array | None) -> PartitionSpec:
        if x is None:
            return PartitionSpec()
        names = (name if size > 1 else None for name, size in zip(WEIGHTS, x.shape, strict=True))
        return spec(tuple(names), x.shape, mesh, weights_rules, "attention mask")

    specs = [*map(of_features, features), *map(of_weights, weights)]
    return jax.shard_map(
        local,
        in_specs=tuple(specs),
        out_specs=specs[0],
        # All that are free, since a Mosaic kernel is never partitioned automatically.
        axis_names=free_axes(mesh),
        check_vma=False,
    )(*features, *weights)


def _heads_for_positions(
    attend: Callable[..., Array],
    axes: tuple[str, ...],
    count: int,
    causal: bool,
    rate: float,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    seeds: Array | None,
) -> Array:
    """Attention of a device's positions [B, t, H, K], in between with all positions of H / R.

    `rate` and `seeds` [B, H / R, 1, 1] are those of `DropWeights`.
    """
    repeats = count // math.gcd(k.shape[2], count)
    k, v = (jnp.repeat(x, repeats, axis=2) for x in (k, v))
    q, k, v = (lax.all_to_all(x, axes, 2, 1, tiled=True) for x in (q, k, v))
    drop = None if seeds is None else DropWeights(rate, seeds[..., 0, 0])
    return lax.all_to_all(attend(q, k, v, mask, drop, causal=causal), axes, 1, 2, tiled=True)


def _check_positions(time: int, count: int, causal: bool) -> None:
    parts = 2 * count if causal else count
    if time % parts:
        raise InputError(
            f"a {'causal ' if causal else ''}ring over {count} devices deals {time} positions out "
            f"in {parts} chunks, which do not divide them; {-(-time // parts) * parts} positions "
            "would, or the rule context='all_to_all'."
        )


def _check_heads(heads: int, count: int) -> None:
    if heads % count:
        raise InputError(
            f"context='all_to_all' gives each of {count} devices as many of {heads} heads, which "
            f"do not divide; {math.gcd(heads, count)} devices would, or the rule context='ring'."
        )
