"""What a reader must know before believing a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxdl.core.records import same_code
from jaxdl.report.runs import Run, differences

SHOWN = 4
"""Names in one sentence."""


def notes_on(runs: Sequence[Run], variants: Sequence[str], base: str) -> tuple[str, ...]:
    """Warnings about a set of runs; none where they compare like with like."""
    counted = [run for run in runs if not run.missing]
    return tuple(
        filter(None, (_base(counted, variants, base), *_variants(counted), _primaries(counted)))
    ) + tuple(_provenance(counted))


def _base(runs: Sequence[Run], variants: Sequence[str], base: str) -> str:
    if base not in variants:
        return f"There is no run of {base}, so nothing is compared; name another base."
    if not any(run.cell.variant == base for run in runs):
        return f"No run of {base} counts, so nothing is compared."
    return ""


def _variants(runs: Sequence[Run]) -> Iterable[str]:
    """Variants whose runs are not of one configuration."""
    first: dict[str, Run] = {}
    told: dict[str, dict[str, None]] = {}
    for run in runs:
        other = first.setdefault(run.cell.variant, run)
        told.setdefault(run.cell.variant, {}).update(dict.fromkeys(differences(other, run)))
    alike: dict[tuple[str, ...], list[str]] = {}
    for variant, paths in told.items():
        alike.setdefault(tuple(paths), []).append(variant)
    for paths, names in alike.items():
        if paths:
            yield f"The runs of {_some(names)} differ in more than their seed: {_some(paths)}."


def _primaries(runs: Sequence[Run]) -> str:
    found = dict.fromkeys(run.result.primary for run in runs if run.result)
    return f"The runs have different primary metrics: {_some(found)}." if len(found) > 1 else ""


def _provenance(runs: Sequence[Run]) -> Iterable[str]:
    """Data and code that are not the same everywhere."""
    passports = [run.passport for run in runs if run.passport]
    for split in ("train", "valid", "test"):
        if len({p.data.get(split) for p in passports}) > 1:
            yield f"The {split} data are not the same in all runs."
    if not all(same_code(passports[0].code, p.code) for p in passports[1:]):
        yield "The code is not the same in all runs; the passports tell."


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
