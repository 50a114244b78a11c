"""A study as sections of tables and pictures, from which the page and the text are both made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from jaxdl.core.records import METRICS
from jaxdl.report import charts, facts
from jaxdl.report.bands import Band, bands
from jaxdl.report.comparison import Metric, Row, Study
from jaxdl.report.runs import COSTS, Run
from jaxdl.report.stats import ALPHA, POWER, Difference
from jaxdl.report.svg import Chart, swatch
from jaxdl.report.words import NONE, PLUS_MINUS, fixed, probability, scale_of, seeds

CURVES = 8
"""Most learning curves that are drawn."""


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of a row heads it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    """How many columns are words, from the left; the others are numbers."""
    tail: int = 0
    """How many columns are words, from the right."""

    def is_number(self, column: int) -> bool:
        """Whether a column is set as numbers are."""
        return self.words <= column < len(self.head) - self.tail


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Chart, ...] = ()
    legend: tuple[tuple[Markup, str], ...] = ()
    open: bool = True
    """Whether a page shows it at once."""


def document(study: Study) -> list[Section]:
    """The sections after the verdicts; those with nothing to tell are left out."""
    curves, damaged = bands(study)
    parts = (
        _numbers(study),
        _seeds(study),
        _curves(study, curves),
        _costs(study),
        _changes(study),
        _failed(study, damaged),
        _runs(study),
        _passports(study),
        _method(),
    )
    return [part for part in parts if part.text or part.tables or part.pictures]


def opening(study: Study) -> str:
    """The sentence under the title: what is compared, and by what."""
    metric, counted = study.headline, len(study.runs) - len(study.failed)
    size = f"{counted} of {len(study.runs)} runs counted" if study.failed else f"{counted} runs"
    if metric is None:
        return f"{size}."
    better = {"max": "higher is better", "min": "lower is better"}.get(metric.scale.mode, "")
    row = next((row for row in metric.rows if row.variant == study.base), None)
    base = ""
    if row is not None and row.mean.n:
        unit = " %" if metric.scale.share else ""
        told = metric.scale.interval(row.mean.mean, row.mean.half)
        base = f"{study.base} has {told}{unit} ({seeds(row.mean.n)})"
    return f"{', '.join(filter(None, (metric.name, better)))}; {size}; {base}".rstrip("; ") + "."


def _numbers(study: Study) -> Section:
    return Section("Numbers", tables=tuple(_metric_table(m, study.base) for m in study.metrics))


def _metric_table(metric: Metric, base: str) -> Table:
    unit = ", %" if metric.scale.share else ""
    better = {"max": "higher is better", "min": "lower is better"}.get(metric.scale.mode, "")
    head = (
        "variant",
        "seeds",
        f"mean{unit}",
        f"minus {base}{', points' if metric.scale.share else ''}",
        "effect",
        "p",
        "p, Holm",
        "detectable",
        "verdict",
    )
    rows = tuple(_metric_row(metric, row) for row in metric.rows)
    return Table(
        " ".join(filter(None, (metric.name, better and f"({better})"))), head, rows, tail=1
    )


def _metric_row(metric: Metric, row: Row) -> tuple[str, ...]:
    scale, found = metric.scale, row.found
    lost = f" (+{len(row.lost)} without)" if row.lost else ""
    first = (row.variant, f"{row.mean.n}{lost}", scale.interval(row.mean.mean, row.mean.half))
    if found is None:
        return (*first, *[NONE] * 5, row.verdict or "the base")
    difference = scale.interval(found.difference, found.half, sign=True)
    return (
        *first,
        difference + _pairs(found),
        fixed(found.effect, 0.1),
        probability(found.p),
        probability(row.corrected),
        scale.value(found.visible, found.visible),
        row.verdict,
    )


def _pairs(found: Difference) -> str:
    if not found.paired:
        return " unpaired"
    return f" ({found.n} pair{'s' * (found.n > 1)})" if found.unused else ""


def _seeds(study: Study) -> Section:
    metric = study.headline
    if metric is None:
        return Section("Seeds")
    text = ("A small mark is a seed; the large one is the mean, with its 95 % interval.",)
    return Section("Seeds", text, pictures=(charts.draw_dots(metric),))


def _curves(study: Study, found: Mapping[str, Mapping[str, Band]]) -> Section:
    pictures = []
    for i, (name, curves) in enumerate(list(found.items())[:CURVES]):
        means = [float(v) for band in curves.values() for v in band.mean]
        factor = scale_of(name, means).factor
        pictures.append(charts.draw_curve(name, curves, study.variants, i, factor))
    if not pictures:
        return Section("Learning curves")
    text = [
        "Lines are means over seeds, bands reach from the lowest to the highest seed. "
        "What the first fifth of the steps shows may lie outside.",
    ]
    if len(found) > CURVES:
        text.append(f"Not drawn: {', '.join(list(found)[CURVES:])}.")
    return Section("Learning curves", tuple(text), pictures=tuple(pictures), legend=_legend(study))


def _costs(study: Study) -> Section:
    metric = study.headline
    known = [cost for cost in COSTS if len(charts.costs_of(study, cost)) > 1]
    if metric is None or not known:
        return Section("Cost against quality")
    pictures = [charts.draw_cost(study, metric, cost) for cost in known]
    fronts = {cost: charts.front_of(study, cost) for cost in known}
    costs = {cost: charts.costs_of(study, cost) for cost in known}
    rows = tuple(
        (
            row.variant,
            metric.scale.value(row.mean.mean, row.mean.half),
            *(
                _amount(costs[c].get(row.variant)) + (" *" if row.variant in fronts[c] else "")
                for c in known
            ),
        )
        for row in metric.rows
        if row.values
    )
    head = ("variant", metric.name + (", %" if metric.scale.share else ""))
    table = Table("Means over seeds", (*head, *(COSTS[cost] for cost in known)), rows)
    text = (
        "A star marks the Pareto front: no other variant is both as good and cheaper, or as cheap "
        "and better, by its mean. In the pictures the front is the stepped line and filled marks.",
    )
    return Section("Cost against quality", text, (table,), tuple(filter(None, pictures)))


def _changes(study: Study) -> Section:
    tables = []
    edits = tuple(facts.edits(study))
    if edits:
        head = ("variant", "field", "value")
        tables.append(Table("Edits of the experiment file", head, edits, words=3))
    changes = tuple(facts.changes(study))
    if changes:
        head = ("variant", "field", study.base, "variant has")
        caption = f"How the resolved configurations differ from {study.base}"
        tables.append(Table(caption, head, changes, words=4))
    same = [v for v in study.variants if v != study.base and study.of(v)]
    same = [v for v in same if v not in {change[0] for change in changes}]
    text = ()
    if same and study.of(study.base):
        text = (f"Configured as {study.base} is: {', '.join(same)}.",)
    return Section("What was changed", text, tuple(tables))


def _failed(study: Study, damaged: Iterable[tuple[Run, str]]) -> Section:
    rows = [
        (r.cell.variant, _seed(r), facts.unplaced(r.missing), r.cell.run.name) for r in study.failed
    ]
    for run in study.runs:
        if run.missing:
            continue
        names = [metric.name for metric in study.metrics]
        lost = [n for n in names if not math.isfinite(run.values.get(n, 0.0))]
        absent = [n for n in names if n not in run.values]
        for which, why in ((lost, "not a finite number"), (absent, "no value")):
            told = f"counted, but not in {', '.join(which)}: {why}"
            if which:
                rows.append((run.cell.variant, _seed(run), told, run.cell.run.name))
    for run, why in damaged:
        told = (
            f"counted, but its curves are not drawn: {METRICS} is damaged ({facts.unplaced(why)})"
        )
        rows.append((run.cell.variant, _seed(run), told, run.cell.run.name))
    title = "Runs that failed or do not count"
    if not rows:
        return Section(title, ("None.",))
    head = ("variant", "seed", "why", "run directory")
    return Section(title, tables=(Table("Left out of the numbers above", head, tuple(rows), 4),))


def _runs(study: Study) -> Section:
    metric = study.headline
    head = ("variant", "seed", metric.name if metric else "result", "steps", "seconds", "status")
    rows = []
    for run in study.runs:
        value = run.values.get(metric.name) if metric else None
        result = run.result
        rows.append(
            (
                run.cell.variant,
                _seed(run),
                NONE if value is None else f"{value:.6g}",
                str(result.steps) if result else NONE,
                f"{result.seconds:.1f}" if result else NONE,
                "not counted" if run.missing else result.status if result else NONE,
                run.cell.run.name,
            )
        )
    table = Table(
        "Every run, as its result.json has it", (*head, "run directory"), tuple(rows), tail=2
    )
    return Section("Runs", tables=(table,), open=False)


def _passports(study: Study) -> Section:
    tables = []
    if rows := tuple(facts.passports(study)):
        tables.append(Table("What the runs were made of", ("what", "value", "runs"), rows, 3))
    if commands := tuple(facts.commands(study)):
        caption = "Command of the first run of each variant"
        tables.append(Table(caption, ("variant", "command"), commands, 2))
    return Section("Passports", tables=tuple(tables), open=False)


def _method() -> Section:
    level = f"{100 * (1 - ALPHA):.0f} %"
    return Section(
        "How to read the numbers",
        (
            f"{PLUS_MINUS} is half of a {level} interval of Student's t over seeds. Differences "
            "are paired by seed; those marked unpaired are Welch's, for seeds that differ.",
            "The interval of a difference holds for few seeds even where single results are "
            "skewed, as long as both variants' are so alike: of exponential results, one three "
            "times as wide as the other, 3 to 10 seeds cover 91 to 92 %. That of a mean is then "
            "too narrow: 88 to 90 %.",
            "Effect is the difference in standard deviations of the paired differences (pooled, "
            "where unpaired), with Hedges' correction for few seeds.",
            f"p is two-sided; Holm's correction keeps the chance of any false finding among the "
            f"variants of a metric at {ALPHA:.0%}. A verdict says better or worse only where the "
            "corrected p is below that.",
            f"Detectable is the smallest true difference that as many seeds show with probability "
            f"{POWER:.0%}, uncorrected. What is smaller may be there unseen.",
            "A verdict of no difference larger than a limit takes the wider of two: what is "
            "detectable at the level that Holm asks of the first of the comparisons, and the far "
            "end of the interval. Where seeds are missing a verdict says how many: if they failed "
            "for their results, those that are left flatter the variant.",
            "Equal values are given the spread of rounding to the smallest step in the metric.",
            "All of this is about other seeds on the same examples. What other test examples "
            "would tell is not part of it.",
        ),
        open=False,
    )


def _legend(study: Study) -> tuple[tuple[Markup, str], ...]:
    return tuple((swatch(i), v) for i, v in enumerate(study.variants) if study.of(v))


def _seed(run: Run) -> str:
    """The seed; a negative one stands for an unknown."""
    return str(run.cell.seed) if run.cell.seed >= 0 else NONE


def _amount(cost: float | None) -> str:
    return NONE if cost is None else f"{cost:,.0f}" if 100 <= cost < 1e7 else f"{cost:.3g}"
