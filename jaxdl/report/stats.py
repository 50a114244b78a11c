"""Means and differences of variants that were trained with a few seeds each.

Intervals are Student's, of 95 %, on the paired difference wherever seeds are shared: what two runs
of one seed have in common cancels, and a difference of two like distributions is symmetric, which
the t interval of three seeds needs and a skewed mean does not give it. A percentile bootstrap of
so few covers far less. Equal values are no proof of zero spread where a metric moves in steps (an
accuracy over 360 examples): they are given the spread of rounding to the smallest step seen, and
so are values that differ by the rounding of floats alone. Without it, five variants of three such
runs that are all the base are told apart in 8 studies of 100 (in less than one with it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 100_000
NOISE = 1e-6
"""Relative differences below it are the rounding of float32 sums."""
NAN = math.nan


@dataclass(frozen=True)
class Mean:
    """A mean over seeds; `half`, of its 95 % interval, and `sd` are NaN of a single one."""

    n: int
    mean: float
    sd: float
    half: float


@dataclass(frozen=True)
class Difference:
    """A variant's mean minus the base's."""

    paired: bool
    n: int
    """Pairs; the smaller number of seeds where they are not paired."""
    difference: float
    half: float
    """Of the 95 % interval; NaN of a single seed, as are the next four."""
    sd: float
    """Of the paired differences, or pooled over both."""
    effect: float
    """The difference in standard deviations (of pairs, or pooled), with Hedges' correction."""
    p: float
    """Two-sided, of this comparison by itself."""
    visible: float
    """The smallest true difference that as many seeds show 4 times in 5."""
    same: bool
    """Every pair is equal; unpaired, all values are."""
    df: float
    """Degrees of freedom; 0 of a single seed."""
    unused: int = 0
    """Seeds of either that have no partner and take no part."""

    def shown_at(self, alpha: float) -> float:
        """`visible` of a test at level `alpha`: with Holm, the level over the number of tests."""
        if self.df <= 0:
            return NAN
        return _shift(self.df, POWER, alpha) * self.half / _quantile(self.df)


def mean_of(values: Iterable[float], step: float = 0.0) -> Mean:
    """Mean and interval of finite `values`; `step` is the metric's, from `resolution`."""
    x = np.asarray(list(values), float)
    if not x.size:
        return Mean(0, NAN, NAN, NAN)
    sd = _sd(x, step, 1, _size(x) if np.ptp(x) else 0.0)
    return Mean(x.size, float(x.mean()), sd, _quantile(x.size - 1) * sd / math.sqrt(x.size))


def compare(
    base: Mapping[int, float], other: Mapping[int, float], step: float = 0.0
) -> Difference | None:
    """`other` minus `base`, finite values by seed; None where either has none.

    Paired over the seeds they share if these are at least half of the smaller group and no single
    one of several, else Welch's.
    """
    if not base or not other:
        return None
    shared, fewer = sorted(base.keys() & other.keys()), min(len(base), len(other))
    if len(shared) < max(fewer / 2, min(fewer, 2)):
        return _welch(np.array([*base.values()]), np.array([*other.values()]), step)
    x, y = (np.array([group[seed] for seed in shared]) for group in (base, other))
    gaps, n = y - x, len(shared)
    same = bool((gaps == 0).all())
    sd = _sd(gaps, step, 2, 0.0 if same else _size(x, y))
    found = float(gaps.mean())
    effect = _ratio(found, sd, n - 1)
    told = _difference(True, n, found, sd / math.sqrt(n), n - 1, sd, effect, same)
    return replace(told, unused=len(base) + len(other) - 2 * n)


def resolution(values: Iterable[float]) -> float:
    """The smallest step between different values; 0 where all are equal, but for rounding."""
    x = np.unique(np.asarray([v for v in values if math.isfinite(v)], float))
    gaps = np.diff(x)
    gaps = gaps[gaps > NOISE * np.maximum(np.abs(x[1:]), np.abs(x[:-1]))]
    return float(gaps.min(initial=math.inf)) if gaps.size else 0.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p values corrected for their number (Holm 1979); NaN, which tested nothing, stays."""
    tested = sorted((value, name) for name, value in p.items() if not math.isnan(value))
    corrected, least = dict.fromkeys(p, NAN), 0.0
    for i, (value, name) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - i) * value))
        corrected[name] = least
    return corrected


def power(effect: float, sd: float, n: int, paired: bool = True) -> float:
    """How often `n` seeds (of each variant) show a true difference of `effect`.

    `sd` is that of paired differences, or of single runs where they are not paired.
    """
    if sd <= 0:
        return float(effect != 0)
    df, per = _design(n, paired)
    shift, edge = abs(effect) / (sd * per), _quantile(df)
    if shift > edge + 20:
        return 1.0
    other = special.nctdtr(df, shift, -edge) if shift < 5 else 0.0  # far out it is NaN
    return float(1 - special.nctdtr(df, shift, edge) + other)


def detectable(sd: float, n: int, paired: bool = True, wanted: float = POWER) -> float:
    """The smallest true difference that `n` seeds show with probability `wanted`."""
    df, per = _design(n, paired)
    return _shift(df, wanted) * sd * per


def seeds_needed(effect: float, sd: float, paired: bool = True, wanted: float = POWER) -> int:
    """The fewest seeds of each variant that show `effect` with probability `wanted`.

    `MOST_SEEDS` stands for that and more.
    """
    low, high = 1, 2
    while power(effect, sd, high, paired) < wanted:
        low, high = high, 2 * high
        if high >= MOST_SEEDS:
            return MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(effect, sd, middle, paired) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high


def sd_interval(sd: float, df: int) -> tuple[float, float]:
    """95 % interval of a normal standard deviation that was estimated with `df`."""
    upper, lower = (special.chdtri(df, tail) for tail in (ALPHA / 2, 1 - ALPHA / 2))
    return sd * math.sqrt(df / upper), sd * math.sqrt(df / lower)


def pooled(sds: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """One standard deviation of several `(sd, degrees of freedom)`, and its own."""
    df = sum(n for _, n in sds)
    return math.sqrt(sum(n * sd**2 for sd, n in sds) / df), df


def _welch(x: np.ndarray, y: np.ndarray, step: float) -> Difference:
    found, n = float(y.mean() - x.mean()), min(len(x), len(y))
    if n < 2:
        return _difference(False, n, found, NAN, 0, NAN, NAN, False)
    same = not np.ptp(np.concatenate([x, y]))
    sds = [_sd(group, step, 1, 0.0 if same else _size(group)) for group in (x, y)]
    parts = [sd**2 / len(group) for sd, group in zip(sds, (x, y), strict=True)]
    weights = [part**2 / (len(g) - 1) for part, g in zip(parts, (x, y), strict=True)]
    df = sum(parts) ** 2 / sum(weights) if sum(weights) else len(x) + len(y) - 2
    sd, freedom = pooled([(s, len(g) - 1) for s, g in zip(sds, (x, y), strict=True)])
    effect = _ratio(found, sd, freedom)
    return _difference(False, n, found, math.sqrt(sum(parts)), df, sd, effect, same)


def _difference(
    paired: bool,
    n: int,
    found: float,
    error: float,
    df: float,
    sd: float,
    effect: float,
    same: bool,
) -> Difference:
    """What follows from the standard error of a difference."""
    if df <= 0:
        return Difference(paired, n, found, NAN, NAN, NAN, NAN, NAN, same, 0)
    p = 2 * special.stdtr(df, -abs(found) / error) if error else float(found == 0)
    half, visible = _quantile(df) * error, _shift(df, POWER) * error
    return Difference(paired, n, found, half, sd, effect, float(p), visible, same, df)


def _sd(x: np.ndarray, step: float, roundings: int, size: float) -> float:
    """The sample's standard deviation; NaN of one.

    Where there is none but of floats of that `size`, it is that of `roundings` to `step`.
    """
    if len(x) < 2:
        return NAN
    sd, least = float(x.std(ddof=1)) if np.ptp(x) else 0.0, NOISE * size
    return sd if sd > max(step / 100, least) else max(step * math.sqrt(roundings / 12), least)


def _size(*groups: np.ndarray) -> float:
    return max(float(np.abs(group).max()) for group in groups)


def _ratio(found: float, sd: float, df: int) -> float:
    """Hedges' corrected ratio; NaN where fewer than two degrees of freedom are left."""
    if df < 2:
        return NAN
    if not found or not sd:
        return 0.0
    log = special.gammaln(df / 2) - special.gammaln((df - 1) / 2)
    return found / sd * float(np.exp(log)) / math.sqrt(df / 2)


def _design(n: int, paired: bool) -> tuple[int, float]:
    """Degrees of freedom, and standard error of a difference in units of the sd."""
    return (n - 1, math.sqrt(1 / n)) if paired else (2 * n - 2, math.sqrt(2 / n))


def _quantile(df: float, alpha: float = ALPHA) -> float:
    return float(special.stdtrit(df, 1 - alpha / 2)) if df > 0 else NAN


def _shift(df: float, wanted: float, alpha: float = ALPHA) -> float:
    """The noncentrality at which the t test of `df` has the power `wanted`."""
    return float(special.nctdtrinc(df, 1 - wanted, _quantile(df, alpha))) if df > 0 else NAN
