"""Learning-rate schedules as values: `build(peak, steps)` gives an Optax schedule."""

from __future__ import annotations

from dataclasses import dataclass

import optax

from jaxdl.core.errors import InputError


@dataclass(frozen=True)
class Constant:
    """Linear warmup over `warmup` updates, then the peak rate."""

    warmup: int = 0

    def build(self, peak: float, steps: int) -> optax.Schedule:
        """Update index -> rate."""
        return _warmed(self.warmup, peak, steps, optax.constant_schedule(peak))


@dataclass(frozen=True)
class Cosine:
    """Linear warmup over `warmup` updates, then half a cosine to `end * peak`.

    Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.
    """

    warmup: int = 0
    end: float = 0.0

    def build(self, peak: float, steps: int) -> optax.Schedule:
        """Update index -> rate."""
        _check_end(self.end)
        decay = optax.cosine_decay_schedule(peak, max(1, steps - self.warmup), alpha=self.end)
        return _warmed(self.warmup, peak, steps, decay)


@dataclass(frozen=True)
class Linear:
    """Linear warmup over `warmup` updates, then a straight line to `end * peak`."""

    warmup: int = 0
    end: float = 0.0

    def build(self, peak: float, steps: int) -> optax.Schedule:
        """Update index -> rate."""
        _check_end(self.end)
        decay = optax.linear_schedule(peak, peak * self.end, max(1, steps - self.warmup))
        return _warmed(self.warmup, peak, steps, decay)


def _check_end(end: float) -> None:
    if not 0 <= end <= 1:
        raise InputError(f"end={end} is the share of the peak rate left at the end, in [0, 1].")


def _warmed(warmup: int, peak: float, steps: int, after: optax.Schedule) -> optax.Schedule:
    """peak * (i + 1) / warmup at update i < `warmup`, where `after` starts."""
    if not 0 <= warmup < steps:
        raise InputError(
            f"warmup={warmup} must be at least 0 and less than the {steps} updates; "
            f"try {steps // 10}."
        )
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])
