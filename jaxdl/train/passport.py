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
CODE = (".py", ".toml", ".cfg")
"""What untracked files must end in to count as code."""
FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DEFAULT_PRNG_IMPL",
    "JAX_THREEFRY_PARTITIONABLE",
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
        folder=str(Path.cwd()),
        code=_code(source),
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


def _code(source: str) -> dict[str, Any]:
    """State of jaxdl's repository, the working directory's, and the experiment's file."""
    file = Path(source.partition(".py")[0] + ".py")
    return {
        "jaxdl": _revision(Path(jaxdl.__file__).parent),
        "here": _revision(Path.cwd()),
        "file": hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None,
    }


def _revision(folder: Path) -> dict[str, str | None] | None:
    """Commit of the repository around `folder`, and a digest of all that is not committed."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    root = Path(top.strip())
    revision = _git(root, "rev-parse", "HEAD")
    changes = hashlib.sha256((_git(root, "diff", "HEAD") or "").encode())
    untracked = (_git(root, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    for name in sorted(filter(None, untracked)):
        if name.endswith(CODE):  # data and runs may be large, and are fingerprinted elsewhere
            changes.update(name.encode() + (root / name).read_bytes())
    clean = hashlib.sha256(b"").hexdigest()
    diff = changes.hexdigest()
    return {"revision": revision and revision.strip(), "diff": None if diff == clean else diff[:16]}


def _git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *args], capture_output=True, text=True, timeout=10, cwd=folder, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
