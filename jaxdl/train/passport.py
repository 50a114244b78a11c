"""The passport: everything a run's numbers depend on, taken down before it starts."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxdl
from jaxdl.core.codec import digest, dump
from jaxdl.core.experiment import Experiment
from jaxdl.core.records import Passport

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "clu", "numpy")
FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_PLATFORMS",
)


def issue(exp: Experiment, source: str, devices: Sequence[jax.Device] | None = None) -> Passport:
    """The passport of `exp` on these devices (default: all) of this machine, now."""
    devices = devices or jax.devices()
    return Passport(
        experiment=dump(exp),
        digest=digest(exp),
        source=source,
        command=" ".join(sys.argv),
        code=_code(),
        versions={name: metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "jaxdl": jaxdl.__version__},
        data=fingerprints(exp.data),
        devices={
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        flags={name: os.environ[name] for name in FLAGS if name in os.environ},
        seed=exp.seed,
    )


def fingerprints(data: Any) -> dict[str, str]:
    """The fingerprint of each split there is."""
    splits = {split: getattr(data, split)() for split in ("train", "valid", "test")}
    return {split: source.fingerprint for split, source in splits.items() if source is not None}


def _code() -> dict[str, Any]:
    """Revision of the working directory's repository, and a digest of what is not committed."""
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return {"revision": None, "diff": None}
    diff = _git("diff", "HEAD") or ""
    return {
        "revision": revision.strip(),
        "diff": hashlib.sha256(diff.encode()).hexdigest()[:16] if diff else None,
    }


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *args], capture_output=True, text=True, timeout=10, cwd=Path.cwd(), check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
