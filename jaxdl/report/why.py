"""Why two runs differ: what is not the same in them, likeliest cause first, and where they part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from jaxdl.core.nodes import ABSENT
from jaxdl.core.records import (
    OUTSIDE,
    Code,
    Passport,
    read_code,
    read_passport,
    read_records,
    read_result,
)
from jaxdl.report import differences as differ
from jaxdl.report.differences import ORDER, Difference, Stage
from jaxdl.report.parting import Comparison, Parting, compare
from jaxdl.report.programs import ALL, Names, first_change, same_program, used
from jaxdl.report.sources import Sources

FITS: dict[tuple[str, Stage], int] = {
    ("start", "update"): 2,
    ("start", "evaluation"): 2,
    ("later", "start"): 2,
    ("later", "evaluation"): 2,
    ("unknown", "evaluation"): 2,
    ("evaluation", "any"): 1,
    ("evaluation", "start"): 2,
    ("evaluation", "update"): 2,
}
"""How badly a difference of that stage explains numbers that part there; 0 where it is not here."""
UNUSED = 3
"""How badly code explains them that nothing seems to use: worse than anything else."""
START = ("fit", "load_experiment", "base", "ABLATIONS")
"""What training and the experiment's file start with, wherever they are started from."""


@dataclass(frozen=True)
class Explanation:
    """Two runs side by side."""

    a: Path
    b: Path
    comparison: Comparison
    likely: tuple[Difference, ...]
    """What can move numbers, likeliest cause first."""
    idle: tuple[Difference, ...]
    """What cannot."""

    @property
    def parting(self) -> Parting | None:
        """Where the numbers part, if they do."""
        return self.comparison.parting


def explain(a: Path, b: Path) -> Explanation:
    """What differs between two run directories.

    Raises:
        InputError: one is not a run's, or its records are damaged.
    """
    sides = [(read_passport(run), read_code(run)) for run in (a, b)]
    ends = (read_result(a), read_result(b))
    comparison = compare(read_records(a), read_records(b), ends)
    sources = (_sources(a, *sides[0]), _sources(b, *sides[1]))
    found = [*between(sides[0], sides[1], sources), *differ.of_run(sides[0][0], sides[1][0])]
    return Explanation(a, b, comparison, *ranked(found, comparison.parting))


def _sources(run: Path, passport: Passport, code: Code | None) -> Sources | None:
    return Sources(run, passport, code) if code else None


def between(
    a: tuple[Passport, Code | None],
    b: tuple[Passport, Code | None],
    sources: tuple[Sources | None, Sources | None] = (None, None),
) -> list[Difference]:
    """All that differs between two passports with their code, but for how the runs were started."""
    one, two = a[0], b[0]
    code = list(_of_code(a, b, sources))
    return [
        *(_by_default(d, one, two, code) for d in differ.of_config(one.experiment, two.experiment)),
        *code,
        *differ.of_sittings(one, two),
        *differ.of_environment(one.flags, two.flags),
        *differ.of_versions(a, b),
        *differ.of_data(one.data, two.data),
        *differ.of_devices(one.devices, two.devices),
        *differ.of_kernels(one.kernels, two.kernels),
    ]


def _by_default(d: Difference, a: Passport, b: Passport, code: list[Difference]) -> Difference:
    """A field's difference, ranked behind that of its class's own file, whose default it may be."""
    if any(f" {d.name}=" in passport.source for passport in (a, b)):
        return d
    owner, module = b.experiment, ""
    for name in d.path:
        module = owner.get("$", module) if isinstance(owner, dict) else module
        inner = owner.get(name) if isinstance(owner, dict) else None
        owner = owner[int(name)] if isinstance(owner, list) and int(name) < len(owner) else inner
    file = module.partition(":")[0].replace(".", "/") + ".py"
    ranks = [c.rank for c in code if c.path[1:] == (file,) and c.stage not in ("nothing", "unused")]
    return replace(d, rank=max(ranks)) if ranks else d


def ranked(
    found: list[Difference], parting: Parting | None
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """What can move numbers, likeliest cause of this parting first, and what cannot."""
    when = parting.when if parting else ""
    likely = [d for d in found if d.stage != "nothing"]
    likely.sort(key=lambda d: (_misfit(when, d.stage), d.rank, d.kind == "config"))
    return tuple(likely), tuple(d for d in found if d.stage == "nothing")


def _misfit(when: str, stage: Stage) -> int:
    return UNUSED if stage == "unused" else FITS.get((when, stage), 0)


def _of_code(
    a: tuple[Passport, Code | None],
    b: tuple[Passport, Code | None],
    sources: tuple[Sources | None, Sources | None],
) -> Iterator[Difference]:
    (one, code_a), (two, code_b) = a, b
    if code_a is None or code_b is None:
        for d in differ.of_mapping("code", one.code, two.code):
            if d.name in one.code and d.name in two.code:
                yield replace(d, rank=ORDER["code"])
        return
    names = _Used(a, b, sources)
    for place in ("jaxdl", "here"):
        left, right = code_a.files.get(place, {}), code_b.files.get(place, {})
        for d in differ.of_mapping("code", left, right):
            ran = (code_a.ran, code_b.ran) if place == "jaxdl" else ()
            idle = bool(ran) and all(r is not None and d.name not in r for r in ran)
            yield _of_file(place, d, sources, names, idle)


class _Used:
    """Names of definitions that either run may use, found out once they are asked for."""

    def __init__(
        self,
        a: tuple[Passport, Code | None],
        b: tuple[Passport, Code | None],
        sources: tuple[Sources | None, Sources | None],
    ):
        self._sides, self._sources = (a, b), sources

    @cached_property
    def names(self) -> Names:
        """All of them where the code cannot be had."""
        experiments = [passport.experiment for passport, _ in self._sides]
        start = {*START, *re.findall(r"\w+", json.dumps(experiments))}
        texts = self._texts()
        try:
            return ALL if None in texts.values() else used(filter(None, texts.values()), start)
        except (SyntaxError, ValueError):
            return ALL

    def _texts(self) -> dict[tuple[str, str], bytes | None]:
        """What ran in either run, by name and digest."""
        texts = {}
        for (_, code), source in zip(self._sides, self._sources, strict=True):
            for place, files in code.files.items() if code and source else ():
                ran = None if code.ran is None or place != "jaxdl" else set(code.ran)
                for name, digest in files.items():
                    key = name, digest
                    if name.endswith(".py") and (ran is None or name in ran) and key not in texts:
                        texts[key] = source.text(place, name)
        return texts


def _of_file(
    place: str,
    found: Difference,
    sources: tuple[Sources | None, Sources | None],
    code: _Used,
    idle: bool,
) -> Difference:
    """The difference of one file, with its line where both texts can be had."""
    own = place == "jaxdl"
    stage: Stage = "update" if own and found.name.startswith("jaxdl/optim/") else "any"
    if idle or (own and found.name.startswith(tuple(f"jaxdl/{name}/" for name in OUTSIDE))):
        stage = "nothing"
    makes_data = not own or found.name.startswith("jaxdl/data/")
    rank = ORDER["code of data" if makes_data else "code"]
    found = replace(found, stage=stage, rank=rank, path=(place, found.name))
    a, b = (source and source.text(place, found.name) for source in sources)
    if repr(ABSENT) in (found.a, found.b) or a is None or b is None:
        return found
    if same_program(a, b):
        return replace(found, stage="nothing", a="other comments or layout", b="")
    names = ALL if stage == "nothing" else code.names
    unused = same_program(a, b, names)
    line, before, after, changes = first_change(a, b, names)
    name = f"{found.name}:{line}" + " (unused)" * unused
    more = f"  (+{changes - 1} more)" if changes > 1 else ""
    return replace(found, stage="unused" if unused else stage, name=name, a=before, b=after + more)
