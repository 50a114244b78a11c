"""Devices of hardware that is not here, to compile for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from jaxdl.core.errors import InputError, suggest

TPUS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
GPUS = ("h200", "a100")
"""Each is described in a file of its name."""
TARGET = re.compile(r"(?:(\d+)x )?([a-z]\w*):(\d+(?:x\d+)*)", re.I)
EXAMPLES = "'v5e:4x4', '2x v5p:4x4x4', 'h200:8' or 'cpu:8'"
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""Tells libtpu, which reads it once, not to look for TPUs or for other processes."""


def devices(target: str) -> list[Any]:
    """The devices of `target`: `v5e:4x4`, `2x v5e:4x4` (two slices), `h200:8`, or `cpu:8`.

    They can be compiled for, not run on, unless they are CPU devices. TPUs need the extra `aot`,
    GPUs the extra `aot-gpu` (and `JAX_PLATFORMS=cpu` where there is no GPU).

    Raises:
        InputError: what would work, where the target is unknown or its compiler is not installed.
    """
    found = TARGET.fullmatch(target.strip())
    if not found:
        raise InputError(f"no hardware is called {target!r}; write e.g. {EXAMPLES}.")
    slices, kind, shape = int(found[1] or 1), found[2].lower(), found[3].lower()
    known = {**dict.fromkeys(TPUS, _tpus), **dict.fromkeys(GPUS, _gpus), "cpu": _cpus}
    if kind not in known:
        raise InputError(f"no hardware is called {kind!r}; {suggest(kind, known)}.")
    if slices < 1 or (slices > 1 and kind not in TPUS):
        raise InputError(f"{target!r}: only TPUs come in slices, and at least one.")
    return known[kind](kind, shape, slices)


def _tpus(kind: str, shape: str, slices: int) -> list[Any]:
    if not find_spec("libtpu"):
        raise InputError("compiling for TPUs needs libtpu; pip install 'jaxdl[aot]'.")
    more = {"num_slices": slices} if slices > 1 else {}
    with _environment(ALONE):
        try:
            found = topologies.get_topology_desc(f"{kind}:{shape}", platform="tpu", **more)
        except jax.errors.JaxRuntimeError as error:
            raise InputError(f"{kind}:{shape} cannot be compiled for: {_first(error)}.") from error
    return list(found.devices)


def _gpus(kind: str, shape: str, slices: int) -> list[Any]:
    if not find_spec("jax_cuda13_plugin"):
        raise InputError(
            "compiling for GPUs needs JAX's CUDA plugin; pip install 'jaxdl[aot-gpu]'."
        )
    hosts, _, local = shape.rpartition("x")
    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            target_config=files("jaxdl.core").joinpath(f"{kind}.txtpb").read_text(),
            topology=f"1x{hosts or 1}x{local}",
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise InputError(f"{kind}:{shape} cannot be compiled for: {_first(error)}.") from error
    return list(found.devices)


def _cpus(kind: str, shape: str, slices: int) -> list[Any]:
    have = jax.devices("cpu")
    if not shape.isdigit() or not 0 < int(shape) <= len(have):
        raise InputError(
            f"cpu:{shape}: this process plays {len(have)} CPU devices; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count=N before it starts."
        )
    return have[: int(shape)]


def shapes_on(device: Any, tree: Any) -> Any:
    """Shapes and dtypes of arrays, as if these lay on that device: lowered, it is compiled for."""
    place = SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


@contextmanager
def unkept() -> Iterator[None]:
    """Keeps what its body compiles out of the cache on disk: nobody will run it."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """`values` for variables that are not set, as long as the block runs."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
