"""`jaxdl report`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import rich
import tyro
from rich.markup import escape
from rich.table import Table

from jaxdl.cli import screen
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.loading import split_source
from jaxdl.core.nodes import children, flatten
from jaxdl.core.records import Passport, read_passport
from jaxdl.report import Cell, Study, find_runs, study, write_report
from jaxdl.report.runs import readable
from jaxdl.report.words import NONE, probability

Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
Name = Annotated[str, tyro.conf.arg(metavar="NAME")]
Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OUT = Path("build/report")
UNKNOWN = "unknown"
"""The variant of runs that do not tell theirs."""
LISTED = 40
"""Most runs listed one by one; the page has them all."""


def report(
    runs: Runs,
    by: Name = "",
    base: Name = "",
    out: Folder = OUT,
    title: Name = "",
    json: screen.Flag = False,
) -> int:
    """Compare any runs: means, intervals, differences paired by seed, and a plain verdict.

    Runs are grouped by the variant and edits they were started with, or by a field. Writes
    report.md and report.html, one file that can be sent.

    Example: jaxdl report runs/quickstart --by model.width

    Args:
        runs: run directories, or folders whose runs are taken, e.g. runs; a sweep's trials only
            where its own folder is named.
        by: dotted field of the experiment that tells the variants apart, e.g. model.depth.
        base: variant that the others are compared with; default base, or the first with --by.
        out: folder for the report.
        title: heading of the report.
        json: print one JSON object per metric and variant; the report is written too.
    """
    places = find_runs(runs)
    if not places:
        raise InputError("name at least one run, or a folder of runs, e.g. `jaxdl report runs`.")
    cells = cells_of(places, by)
    names = list(dict.fromkeys(cell.variant for cell in cells))
    if base and base not in names:
        raise InputError(f"no run is of variant {base!r}; {suggest(base, names)}.")
    found = study(cells, title=title or _title(runs, by), base=base or _base(names, by))
    written = write_report(found, out)
    if json:
        for line in found.lines():
            screen.print_json(line)
        return 0
    print_runs(found)
    print_study(found)
    print(*written, sep="\n")
    return 0


def cells_of(places: list[Path], by: str = "") -> list[Cell]:
    """What each run is: its variant by source or by a field, and its seed.

    A run whose passport cannot be read is a failed one of the variant `UNKNOWN`.
    """
    passports, broken = _passports(places)
    if broken and not passports:
        raise InputError(broken[0].error)
    if by:
        names = {place: _by_field(passport, by) for place, passport in passports.items()}
        if all(name is None for name in names.values()):
            known = flatten(readable(next(iter(passports.values())).experiment))
            fields = [path for path in known if not path.endswith("class")]
            raise InputError(f"no run has a field {by!r}; {suggest(by, fields)}.")
        labels = {place: name or f"{by} absent" for place, name in names.items()}
    else:
        labels = _by_source(passports)
    cells = [Cell(labels[place], passport.seed, place) for place, passport in passports.items()]
    return sorted(cells, key=lambda cell: cell.seed) + broken


def _passports(places: list[Path]) -> tuple[dict[Path, Passport], list[Cell]]:
    found: dict[Path, Passport] = {}
    broken: list[Cell] = []
    for place in places:
        try:
            found[place] = read_passport(place)
        except InputError as error:
            # Seeds are at least 0: each of these counts once.
            broken.append(Cell(UNKNOWN, -1 - len(broken), place, str(error)))
    return found, broken


def _base(names: Sequence[str], by: str) -> str:
    """The one variant that is a base by its name; of a field, or of a single variant, the first.

    Raises: InputError where several could be meant.
    """
    known = [name for name in names if name != UNKNOWN]
    if by or len(known) == 1:
        return known[0]
    bases = [name for name in known if name == "base"]
    bases = bases or [name for name in known if name.endswith(":base")]
    if len(bases) == 1:
        return bases[0]
    nearest = (bases or known)[:LISTED]
    raise InputError(
        f"which variant are the others compared with? Say --base NAME, e.g. --base "
        f"{shlex.quote(nearest[0])}; there are: {', '.join(nearest)}."
    )


def print_runs(found: Study) -> None:
    """A line for each run."""
    if len(found.runs) > LISTED:
        rich.print(f"{len(found.runs)} runs")
        return
    metric = found.headline
    shown = Table("run", "variant", box=None, pad_edge=False)
    for name in ("seed", metric.name if metric else "result", "steps", "seconds"):
        shown.add_column(escape(name), justify="right")
    shown.add_column("status")
    for run in found.runs:
        value, result = run.values.get(metric.name) if metric else None, run.result
        shown.add_row(
            escape(run.cell.run.name),
            escape(run.cell.variant),
            str(run.cell.seed) if run.cell.seed >= 0 else NONE,
            NONE if value is None else f"{value:#.4g}",
            str(result.steps) if result else NONE,
            f"{result.seconds:.1f}" if result else NONE,
            escape(run.missing) or (result.status if result else NONE),
        )
    rich.print(shown)
    rich.print()


def print_study(found: Study) -> None:
    """The headline metric a verdict for each variant, and what to mind."""
    metric = found.headline
    if metric is not None:
        unit = ", %" if metric.scale.share else ""
        shown = Table("variant", box=None, pad_edge=False)
        for name in ("seeds", metric.name + unit, f"minus {found.base}", "p, Holm"):
            shown.add_column(escape(name), justify="right", no_wrap=True)
        for row in metric.rows:
            gap = row.found
            shown.add_row(
                escape(row.variant),
                str(row.mean.n),
                metric.scale.interval(row.mean.mean, row.mean.half),
                metric.scale.interval(gap.difference, gap.half, sign=True) if gap else NONE,
                probability(row.corrected),
            )
        rich.print(shown)
        rich.print()
    for variant, told in found.verdicts.items():
        rich.print(f"[bold]{escape(variant)}[/bold]: {escape(told)}")
    for note in found.notes:
        rich.print(f"[yellow]note:[/yellow] {escape(note)}")
    if found.failed:
        rich.print(
            f"[yellow]note:[/yellow] {len(found.failed)} of {len(found.runs)} runs do not count."
        )


def _by_source(passports: dict[Path, Passport]) -> dict[Path, str]:
    """Variant and edits, seeds aside; with the file where there are several."""
    files = {
        place: split_source(passport.source)[0].removesuffix(".py")
        for place, passport in passports.items()
    }
    several = len(set(files.values())) > 1
    stems = Counter({Path(file).name: 0 for file in files.values()})
    stems.update(Path(file).name for file in set(files.values()))
    labels = {}
    for place, passport in passports.items():
        rest = split_source(passport.source)[1]
        variant, *edits = rest.split(" ")
        kept = [edit for edit in edits if edit and not edit.startswith("seed=")]
        label = " ".join([variant.removeprefix(":") or "base", *kept])
        stem = Path(files[place]).name
        file = stem if stems[stem] == 1 else files[place]
        labels[place] = f"{file}:{label}" if several else label
    return labels


def _by_field(passport: Passport, path: str) -> str | None:
    """`depth=6`; None where the run has no such field."""
    value: Any = readable(passport.experiment)
    for name in path.split("."):
        parts = children(value)
        if not parts or name not in parts:
            return None
        value = parts[name]
    if isinstance(value, dict) and "class" in value:
        value = str(value["class"]).rpartition(":")[2]
    return f"{path}={value}"


def _title(places: Sequence[Path], by: str) -> str:
    names = [place.resolve().name for place in places]
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Runs of {named}" + (f" by {by}" if by else "")
