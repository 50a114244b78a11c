"""Meshes, sharding rules, and the one door from single-device functions to shards."""

from jaxdl.kernels.dispatch import Choice as KernelChoice
from jaxdl.kernels.dispatch import recording as recorded_kernels
from jaxdl.kernels.dispatch import strict as strict_kernels
from jaxdl.parallel.collective import all_reduced, batch_axes
from jaxdl.parallel.context import context_parallel
from jaxdl.parallel.mesh import make_mesh
from jaxdl.parallel.per_shard import Spread, per_shard, spread
from jaxdl.parallel.pipeline import pipelined
from jaxdl.parallel.pipeline_cut import Layers, staged
from jaxdl.parallel.pipeline_schedule import bubble, peak
from jaxdl.parallel.placement import Names, axes_of, dividing, recorded, spec
from jaxdl.parallel.processes import decided, fetched, gathered, is_first
from jaxdl.parallel.rendezvous import Member
from jaxdl.parallel.rules import (
    constrain,
    context,
    device_kind,
    on_cpu,
    scope,
    shardings,
    unbox,
)
from jaxdl.parallel.strategies import METHODS, STRATEGIES, compose, resolve
from jaxdl.parallel.vocabulary import spread_vocabulary

__all__ = [
    "METHODS",
    "STRATEGIES",
    "KernelChoice",
    "Layers",
    "Member",
    "Names",
    "Spread",
    "all_reduced",
    "axes_of",
    "batch_axes",
    "bubble",
    "compose",
    "constrain",
    "context",
    "context_parallel",
    "decided",
    "device_kind",
    "dividing",
    "fetched",
    "gathered",
    "is_first",
    "make_mesh",
    "on_cpu",
    "peak",
    "per_shard",
    "pipelined",
    "recorded",
    "recorded_kernels",
    "resolve",
    "scope",
    "shardings",
    "spec",
    "spread",
    "spread_vocabulary",
    "staged",
    "strict_kernels",
    "unbox",
]
