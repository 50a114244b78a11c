"""How numbers are said: which way is better, how many digits, and the verdict on a difference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxdl.report.stats import ALPHA, Difference

UP = frozenset(
    "accuracy auc bleu dice f1 iou map precision psnr r2 recall reward rouge score ssim "
    "top5".split()
)
DOWN = frozenset(
    "bits cer distance ece error fid frechet loss mae mse nll perplexity rmse seconds wer".split()
)
SHARES = frozenset("accuracy auc dice ece f1 iou map precision recall top5".split())
"""Words in the names of metrics that are shares of one and told in percent."""
NONE = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass(frozen=True)
class Scale:
    """How the values of one metric are read."""

    mode: str
    """`max`, `min`, or nothing where neither is known to be better."""
    share: bool
    """Told in percent, and differences in points."""

    @property
    def factor(self) -> int:
        """What a value is multiplied by before it is shown."""
        return 100 if self.share else 1

    @property
    def unit(self) -> str:
        """After a difference."""
        return " points" if self.share else ""

    def value(self, value: float, half: float) -> str:
        """A value alone, to the places that its uncertainty deserves."""
        return fixed(value * self.factor, half * self.factor)

    def interval(self, value: float, half: float, sign: bool = False) -> str:
        """`99.44 ± 0.13`; without the second part where there is none."""
        value, half = value * self.factor, half * self.factor
        shown = ("+" if sign and value > 0 else "") + fixed(value, half)
        return f"{shown} {PLUS_MINUS} {fixed(half, half)}" if math.isfinite(half) else shown

    def way(self, difference: float) -> str:
        """`better`, or only `higher` where nobody said which way is better."""
        if not self.mode:
            return "higher" if difference > 0 else "lower"
        return "better" if (difference > 0) == (self.mode == "max") else "worse"


def scale_of(metric: str, values: Iterable[float], mode: str = "") -> Scale:
    """How `valid/accuracy` is read; `mode` where the task itself says so."""
    words = set(metric.rpartition("/")[2].replace(".", "_").lower().split("_"))
    mode = mode or ("max" if words & UP else "min" if words & DOWN else "")
    inside = all(0 <= v <= 1 for v in values if math.isfinite(v))
    return Scale(mode, bool(words & SHARES) and inside)


def fixed(value: float, by: float) -> str:
    """`value` with the places that show two digits of `by`; four digits where that is nothing."""
    if not math.isfinite(value):
        return NONE
    if not math.isfinite(by) or by <= 0:
        return minus(f"{value:.4g}")
    places = 1 - math.floor(math.log10(by))
    if abs(places) > 6:
        return minus(f"{value:.3g}")
    return minus(f"{round(value, places) + 0.0:.{max(0, places)}f}")


def minus(text: str) -> str:
    """A number with the sign that typesetters use."""
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def probability(p: float) -> str:
    """A p value to the digits that matter."""
    if math.isnan(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seeds(n: int) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{n} seed" + "s" * (n != 1)


def losing(lost: Mapping[int, str], kept: int, of: str = "") -> str:
    """`2 of 5 seeds failed`, of `kept` and `lost` ones; empty where none was lost."""
    total, reasons = seeds(kept + len(lost)), Counter(lost.values())
    return ", ".join(f"{count} of {total}{of} {why}" for why, count in reasons.items())


def nothing(metric: str, lost: Mapping[int, str], of: str = "") -> str:
    """Why there is no verdict at all, of what has no value of `metric`."""
    if "gave no value" in lost.values():
        return f"no value of {metric}{of}"
    return f"no run{of} counts"


def verdict(found: Difference, corrected: float, scale: Scale, base: str, tests: int) -> str:
    """One plain line; `corrected` is Holm's p among `tests` comparisons with `base`."""
    pairs = f" in the {found.n} pairs" if found.unused and found.n > 1 else ""
    if found.same and found.n > 1:
        both = " that both have" if found.unused else ""
        return f"no difference: the same numbers as {base} in all {seeds(found.n)}{both}"
    size = scale.interval(abs(found.difference), found.half) + scale.unit + pairs
    if found.n < 2:
        if not found.difference:
            return f"the same number as {base}; one seed tells no more"
        return f"one seed tells no interval: {scale.way(found.difference)} by {size} there"
    if corrected < ALPHA:
        return f"{scale.way(found.difference)} by {size}"
    if found.p < ALPHA:
        return (
            f"unclear: {scale.way(found.difference)} by {size} taken alone, but p is "
            f"{probability(corrected)} among {tests} comparisons"
        )
    limit = max(found.shown_at(ALPHA / max(tests, 1)), abs(found.difference) + found.half)
    least = scale.value(limit, limit) + scale.unit
    measured = scale.interval(found.difference, found.half, sign=True)
    return (
        f"no difference larger than {least} can be seen with {seeds(found.n)} "
        f"(found {measured}{pairs})"
    )
