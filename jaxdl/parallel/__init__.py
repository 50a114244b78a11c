"""Meshes, sharding rules, and the one door from single-device functions to shards."""

from jaxdl.parallel.collective import all_reduced, batch_axes
from jaxdl.parallel.mesh import make_mesh
from jaxdl.parallel.per_shard import per_shard
from jaxdl.parallel.placement import Names, axes_of, recorded, spec
from jaxdl.parallel.rules import constrain, scope, shardings, unbox, unrolls
from jaxdl.parallel.strategies import STRATEGIES, compose, resolve

__all__ = [
    "STRATEGIES",
    "Names",
    "all_reduced",
    "axes_of",
    "batch_axes",
    "compose",
    "constrain",
    "make_mesh",
    "per_shard",
    "recorded",
    "resolve",
    "scope",
    "shardings",
    "spec",
    "unbox",
    "unrolls",
]
