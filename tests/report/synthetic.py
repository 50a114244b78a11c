"""Run directories with made-up numbers, in the form that training writes."""

from pathlib import Path

from jaxdl.core.records import (
    METRICS,
    PASSPORT,
    RESULT,
    Passport,
    Record,
    Result,
    line_of,
    write_json,
)
from jaxdl.report import Cell

EXPERIMENT = {
    "$": "jaxdl.core.experiment:Experiment",
    "model": {"$": "jaxdl.models.mlp:MLP", "widths": [16], "act": {"$ref": "jax.nn:relu"}},
    "optim": {"$": "jaxdl.optim.chain:AdamW", "peak_lr": 0.01, "clip": {"$float": "inf"}},
    "task": {"primary": "valid/accuracy", "mode": "max"},
    "steps": 100,
}


def write_run(
    place: Path,
    variant: str,
    seed: int,
    metrics: dict,
    *,
    status: str = "done",
    seconds: float = 10.0,
    points: int = 0,
    curve=lambda split, step: {"loss": 1 / (step + 1)},
    source: str = "",
    primary: str = "valid/accuracy",
    **fields,
) -> Cell:
    """A run of `EXPERIMENT` with `fields` of it changed; the cell that names it."""
    place.mkdir(parents=True)
    passport = Passport(
        experiment=EXPERIMENT | {"seed": seed} | fields,
        digest="0" * 8,
        source=source or f"exp.py:{variant} seed={seed}",
        command=f"/somewhere/bin/jaxdl train exp.py:{variant} --set seed={seed}",
        code={"jaxdl": {"revision": "a" * 40, "diff": None}, "file": "b" * 16},
        versions={"jax": "0.10.2", "numpy": "2.1"},
        data={"train": "c" * 16, "test": "d" * 16},
        devices={"kind": "cpu", "count": 1},
        flags={"PYTHONPATH": "/somewhere/lib", "OMP_NUM_THREADS": "2"},
        seed=seed,
    )
    write_json(place / PASSPORT, passport)
    write_json(place / RESULT, Result(status, 100, seconds, primary, metrics))
    with (place / METRICS).open("w") as lines:
        for step in range(1, points + 1):
            for split in ("train", "valid"):
                lines.write(line_of(Record(step, split, 0.1 * step, curve(split, step))))
    return Cell(variant, seed, place)


def both(**values) -> dict:
    """The same numbers on both held-out splits."""
    return {"valid": values, "test": values}
