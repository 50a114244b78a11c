"""The passport: everything a run's numbers depend on, taken down before it starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdl.core.codec import digest, dump
from jaxdl.core.experiment import Experiment
from jaxdl.core.flops import flops
from jaxdl.core.records import Passport
from jaxdl.core.tree import size
from jaxdl.train import snapshot, surroundings
from jaxdl.train.program import Program
from jaxdl.train.snapshot import Snapshot

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "clu", "numpy")


def issue(
    exp: Experiment,
    source: str,
    devices: Sequence[jax.Device] | None = None,
    code: Snapshot | None = None,
) -> Passport:
    """The passport of `exp` on these devices (default: all) of this machine, now."""
    devices, code = devices or jax.devices(), code or snapshot.take(source)
    return Passport(
        experiment=dump(exp),
        digest=digest(exp),
        source=source,
        command=" ".join(sys.argv),
        folder=str(Path.cwd()),
        code=code.told,
        versions=surroundings.versions(),
        data=fingerprints(exp.data),
        devices=surroundings.machine(devices),
        flags=surroundings.environment(code.theirs()),
        seed=exp.seed,
    )


def fingerprints(data: Any) -> dict[str, str]:
    """The fingerprint of each split there is."""
    splits = {split: getattr(data, split)() for split in ("train", "valid", "test")}
    return {split: source.fingerprint for split, source in splits.items() if source is not None}


def cost(program: Program) -> dict[str, int]:
    """Numbers of parameters, and FLOPs of matrix products and convolutions in one update."""
    update = jax.make_jaxpr(program.step)(program.abstract, program.batch)
    return {"parameters": size(program.abstract.params), "flops": flops(update).total()}
