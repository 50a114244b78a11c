"""The Experiment: everything that decides a run's numbers, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxdl.core.errors import InputError


@dataclass(frozen=True)
class Experiment:
    """One run, fully described; every field is reached by `change` and `--set`, e.g. `model.depth`.

    Fields that hold a callable take a module-level function, a class, or a `Part`.
    """

    model: Any
    """A linen module, or a frozen dataclass of modules (`model.generator`, `model.critic`)."""
    task: Any
    """A frozen dataclass, see `Task`; loss weights live here, the model never does."""
    data: Any
    """A frozen dataclass, see `Data`."""
    optim: Any
    """A frozen dataclass with `build(steps, params)`, or one of such, by player."""
    steps: int
    seed: int = 0
    precision: str = "f32"
    """A name in `core/precision.py`."""
    ema: float = 0.0
    """Decay of the averaged parameters, which evaluation and export then use; 0 keeps none."""
    mesh: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the axes `data`, `fsdp`, `model`, `seq`, `expert` and `pipe`, one of which may be
    -1; empty puts every device on `data`."""
    rules: str | Mapping = "auto"
    """What the axes of the mesh divide: `auto` lets each do its own; else names of strategies such
    as `fsdp+tp`, or a dict of changes to `auto` from logical names to mesh axes."""
    optimizer_memory: Literal["device", "host"] = "device"
    """Where the optimizer's state lies between updates; the host's memory is larger and slower."""
    accumulate: int = 1
    """Micro-batches per update; a pipeline works on them at the same time."""
    pipeline: Literal["1f1b", "gpipe", "interleaved"] = "1f1b"
    """In which order the stages of a pipeline, on the mesh axis `pipe`, take the micro-batches."""
    collectives: Literal["automatic", "explicit"] = "automatic"
    """Who puts the collectives of data parallelism into the step: XLA's partitioner, or the step
    itself, under `shard_map`. The numbers are the same but for the draws of dropout, and but for
    losses that compare the examples of a batch: those see a device's own only."""
    local_rate: float = 0.0
    """Above 0, every device takes its micro-batches one after the other as steps of SGD at this
    rate before they meet (local SGD); `optim` then steps along the average of what they moved, to
    that average itself where it is SGD at the same rate. Needs explicit collectives."""
    deterministic_shards: int = 0
    """Virtual shards of the bit-identical mode; 0 is plain mode."""
    hooks: tuple[Any, ...] = ()
    """What happens between updates, in this order; each owns its cadence."""
    rank_promotion: Literal["raise", "warn", "allow"] = "raise"
    """Whether loss and metrics may broadcast arrays of different rank: (N, 1) against (N,)."""

    def __post_init__(self):
        """Checks what can be known without a device."""
        for name, least in (("steps", 1), ("accumulate", 1), ("deterministic_shards", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)} must be at least {least}.")
        if not 0.0 <= self.ema < 1.0:
            raise InputError(f"ema={self.ema} must lie in [0, 1); 0 keeps no average.")
        if self.local_rate < 0 or (self.local_rate and self.collectives != "explicit"):
            raise InputError(
                f"local_rate={self.local_rate} must be at least 0, and above 0 it needs "
                "collectives='explicit'."
            )
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed} must lie in [0, 2**32).")
