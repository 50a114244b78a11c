"""What is around a run: installed packages, the environment, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxdl
from jaxdl.core import flags

SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_random_seed_offset",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
)
"""Settings of jax that change numbers, whoever set them."""
READS = re.compile(r"""(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\()\s*["'](\w+)["']""")


def versions() -> dict[str, str]:
    """Version of every installed package, of jaxdl and of Python.

    From the names of their folders: reading each package's metadata takes ten times as long.
    """
    found: dict[str, str] = {}
    for place in sys.path:  # of several, Python imports the first
        for folder in sorted(Path(place or ".").glob("*.dist-info")):
            name, _, version = folder.name.removesuffix(".dist-info").partition("-")
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return found | {"python": platform.python_version(), "jaxdl": jaxdl.__version__}


def environment(files: Iterable[Path] = ()) -> dict[str, str]:
    """The part of the environment that may matter, names that the code in `files` reads included.

    Of names that only that code reads there are digests; what may be a secret stays out.
    """
    read = {name for file in files for name in READS.findall(file.read_text(errors="replace"))}
    found = {
        name: flags.kept(name, value)
        for name, value in sorted(os.environ.items())
        if name.startswith(flags.PREFIXES) or name in read
    }
    told = {name: value for name, value in found.items() if value is not None}
    settings = {name: str(getattr(jax.config, name)) for name in SETTINGS if _known(name)}
    return told | settings


def machine(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Kind and number of the devices, their topology, and the processor."""
    first = devices[0]
    told = {
        "kind": first.device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
        "runtime": str(first.client.platform_version),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
    }
    places = [device.coords for device in devices if hasattr(device, "coords")]
    if places:
        told["topology"] = "x".join(str(1 + max(axis)) for axis in zip(*places, strict=True))
    return told


def _known(setting: str) -> bool:
    return hasattr(jax.config, setting)


def _processor() -> str:
    """Its name, and a digest of its features: they decide which instructions XLA picks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {name.strip(): value.strip() for name, _, value in (s.partition(":") for s in lines)}
    features = " ".join(sorted((told.get("flags") or told.get("Features") or "").split()))
    name = told.get("model name") or platform.machine()
    return f"{name}, features {hashlib.sha256(features.encode()).hexdigest()[:8]}"
