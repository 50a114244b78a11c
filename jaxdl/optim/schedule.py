"""Learning-rate schedules as values: `build(peak, steps)` gives an Optax schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
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


@dataclass(frozen=True)
class Steps:
    """Linear warmup, then the peak rate times `factor` at each share of the updates in `at`.

    He et al. 2015, arXiv:1512.03385, section 4.2: a tenth after a half and again after three
    quarters.
    """

    warmup: int = 0
    factor: float = 0.1
    at: tuple[float, ...] = (0.5, 0.75)

    def build(self, peak: float, steps: int) -> optax.Schedule:
        """Update index -> rate."""
        if not 0 < self.factor < 1:
            raise InputError(f"factor={self.factor} is what is left at a step, in (0, 1).")
        _check_warmup(self.warmup, steps)
        places = [math.ceil(share * steps) for share in self.at]
        if sorted(set(places)) != places or not all(self.warmup < p < steps for p in places):
            raise InputError(
                f"at={self.at} must be rising shares of the {steps} updates, between warmup="
                f"{self.warmup} and the end; try (0.5, 0.75)."
            )
        falls = {place - self.warmup: self.factor for place in places}
        fall = optax.piecewise_constant_schedule(peak, falls)
        return _warmed(self.warmup, peak, steps, fall)


@dataclass(frozen=True)
class InverseSqrt:
    """Linear warmup, then the peak rate times sqrt(warmup / (i + 1)) at update i.

    Vaswani et al. 2017, arXiv:1706.03762, eq. 3, whose peak is 1 / sqrt(width * warmup). It needs
    no end.
    """

    warmup: int = 1

    def build(self, peak: float, steps: int) -> optax.Schedule:
        """Update index -> rate."""
        first = max(1, self.warmup)

        def fall(after):
            return peak * jnp.sqrt(first / (self.warmup + after + 1))

        return _warmed(self.warmup, peak, steps, fall)


Schedule = Constant | Cosine | Linear | Steps | InverseSqrt
"""Every schedule there is."""


def _check_end(end: float) -> None:
    if not 0 <= end <= 1:
        raise InputError(f"end={end} is the share of the peak rate left at the end, in [0, 1].")


def _check_warmup(warmup: int, steps: int) -> None:
    if not 0 <= warmup < steps:
        raise InputError(
            f"warmup={warmup} must be at least 0 and less than the {steps} updates; "
            f"try {steps // 10}."
        )


def _warmed(warmup: int, peak: float, steps: int, after: optax.Schedule) -> optax.Schedule:
    """peak * (i + 1) / warmup at update i < `warmup`, where `after` starts."""
    _check_warmup(warmup, steps)
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])
