"""`jaxdl power`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

import rich
import tyro
from rich.table import Table

from jaxdl.cli import screen
from jaxdl.cli.report import cells_of
from jaxdl.core.errors import InputError
from jaxdl.core.loading import split_source
from jaxdl.report import Study, find_runs, study
from jaxdl.report.comparison import Metric
from jaxdl.report.stats import (
    MOST_SEEDS,
    POWER,
    compare,
    detectable,
    pooled,
    resolution,
    sd_interval,
    seeds_needed,
)

COUNTS = (3, 5, 10, 20, 50)
LEAST = 3
"""Seeds of one variant from which a spread is told."""
What = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="EXP|RUN...")]


@dataclass(frozen=True)
class Spread:
    """A standard deviation over seeds, and how well it is known."""

    paired: bool
    sd: float
    df: int


def power(
    what: What,
    effect: float | None = None,
    power: float = POWER,
    json: screen.Flag = False,
) -> int:
    """Tell how many seeds would show an effect, from the spread of finished runs.

    Example: jaxdl power experiments/quickstart.py --effect 0.005

    Args:
        what: experiment files, whose runs are those in runs/FILE, or run directories.
        effect: difference to be shown, in the metric's own unit: 0.005 is half a point of
            accuracy.
        power: how often it is to be shown.
        json: print one JSON object per spread and number of seeds.
    """
    if not 0 < power < 1:
        raise InputError(f"power={power} must lie between 0 and 1, like 0.8.")
    if effect is not None and not effect > 0:
        raise InputError(f"effect={effect} must be positive; the sign does not matter.")
    found = study(cells_of(find_runs([_place(name) for name in what])), title="")
    spreads = spreads_of(found)
    metric = found.headline
    assert metric is not None
    if json:
        for line in lines(metric, spreads, effect, power):
            screen.print_json(line)
        return 0
    for spread in spreads:
        print(_said(metric, spread))
    unit = f",{metric.scale.unit}" if metric.scale.unit else ""
    print(f"difference shown with probability {power:.0%}{unit}:")
    rich.print(_table(metric, spreads, power))
    for spread in spreads if effect is not None else ():
        print(_needed(metric, spread, effect, power))
    return 0


def spreads_of(found: Study) -> list[Spread]:
    """The spread of single runs pooled over variants, and that of pairs where there are some.

    Raises: InputError where no variant has enough seeds.
    """
    metric = found.headline
    rows = [row for row in metric.rows if row.mean.n >= LEAST] if metric else []
    if not rows:
        most = max((row.mean.n for row in metric.rows), default=0) if metric else 0
        raise InputError(
            f"no variant has {LEAST} finished seeds (the most is {most}); run some first, e.g. "
            "jaxdl train EXP --set seed=1."
        )
    sd, df = pooled([(row.mean.sd, row.mean.n - 1) for row in rows])
    spreads = [Spread(False, sd, df)]
    step = resolution(value for row in rows for value in row.values.values())
    gaps = [compare(a.values, b.values, step) for a, b in combinations(rows, 2)]
    pairs = [g for g in gaps if g and g.paired and g.n >= LEAST and not g.same]
    if pairs:
        # Pairs of variants share runs: no more freedom is claimed than the variants beyond the
        # first give.
        sd, _ = pooled([(g.sd, g.n - 1) for g in pairs])
        most = max(g.n for g in pairs) - 1
        spreads.append(Spread(True, sd, most * (len(rows) - 1)))
    return spreads


def lines(metric: Metric, spreads: Sequence[Spread], effect: float | None, wanted: float):
    """What `--json` prints."""
    for spread in spreads:
        for n in COUNTS:
            yield {
                "metric": metric.name,
                "paired": spread.paired,
                "sd": spread.sd,
                "seeds": n,
                "detectable": detectable(spread.sd, n, spread.paired, wanted),
            }
        if effect is not None:
            yield {
                "metric": metric.name,
                "paired": spread.paired,
                "sd": spread.sd,
                "effect": effect,
                "seeds_needed": seeds_needed(effect, spread.sd, spread.paired, wanted),
            }


def _place(name: str) -> Path:
    """The folder of an experiment's runs, or the folder itself."""
    file, _ = split_source(name)
    if not file:
        return Path(name)
    folder = Path("runs") / Path(file).stem
    if not Path(file).is_file() and not folder.is_dir():
        raise InputError(f"neither {file} nor {folder} is there; name an experiment file or runs.")
    if not folder.is_dir():
        raise InputError(
            f"{name} has no runs in {folder} yet; run some seeds first: jaxdl train {name} "
            "--set seed=1, and so on."
        )
    return folder


def _said(metric: Metric, spread: Spread) -> str:
    low, high = sd_interval(spread.sd, spread.df)
    kind = "of paired differences" if spread.paired else "from seed to seed"
    sd, low, high = (_size(metric, v) for v in (spread.sd, low, high))
    return (
        f"{metric.name}: standard deviation {kind} {sd}{metric.scale.unit} (95 %: {low} to {high})"
    )


def _table(metric: Metric, spreads: Sequence[Spread], wanted: float) -> Table:
    shown = Table("seeds", box=None, pad_edge=False)
    for spread in spreads:
        shown.add_column("paired" if spread.paired else "unpaired", justify="right")
    for n in COUNTS:
        sizes = (detectable(s.sd, n, s.paired, wanted) for s in spreads)
        shown.add_row(str(n), *(_size(metric, size) for size in sizes))
    return shown


def _needed(metric: Metric, spread: Spread, effect: float, wanted: float) -> str:
    low, high = sd_interval(spread.sd, spread.df)
    needed = [
        f"{MOST_SEEDS:,} or more" if n >= MOST_SEEDS else str(n)
        for n in (seeds_needed(effect, sd, spread.paired, wanted) for sd in (spread.sd, low, high))
    ]
    kind = "paired" if spread.paired else "unpaired"
    return (
        f"{kind}: {_size(metric, effect)}{metric.scale.unit} needs {needed[0]} seeds of each "
        f"variant ({needed[1]} to {needed[2]} over the interval of the deviation)"
    )


def _size(metric: Metric, value: float) -> str:
    return metric.scale.value(value, value)
