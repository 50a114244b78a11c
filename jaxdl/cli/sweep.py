"""`jaxdl sweep`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any, Literal

import rich
import tyro
from rich.markup import escape
from rich.table import Table

from jaxdl.cli import screen
from jaxdl.cli.shares import shares_of
from jaxdl.cli.start import sharing, start
from jaxdl.cli.train import Edits, Spec
from jaxdl.core.codec import digest
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.loading import load_experiment, load_file
from jaxdl.search.objective import Objective, cadence, parse_objectives
from jaxdl.search.plots import IMPORTANCE, PARALLEL, draw_importance, draw_parallel
from jaxdl.search.space import Space, edits_of, find_space, grid
from jaxdl.search.storage import reaching
from jaxdl.search.study import Row, Study, make_pruner, make_sampler, open_study
from jaxdl.search.sweep import Plan, Start, Sweep, check_folder, new_worker
from jaxdl.search.variant import spelt, write_variant

TRIALS, SHOWN = 20, 5
BEST, ENDED = "best.py", ("done", "pruned", "failed")
Count = Annotated[int | None, tyro.conf.arg(metavar="N")]
Place = Annotated[str, tyro.conf.arg(metavar="URL")]


def sweep(
    exp: Spec,
    edits: Edits = (),
    trials: Count = None,
    space: str = "SPACE",
    sampler: Literal["tpe", "cmaes", "grid", "random"] = "tpe",
    pruner: Literal["none", "median", "hyperband"] = "none",
    jobs: int = 1,
    storage: Place = "",
    study: str = "",
    objective: str = "",
    seed: int = 0,
    json: screen.Flag = False,
) -> int:
    """Search an experiment's hyper-parameters. The same command again goes on to the total.

    The file names what may vary: SPACE = {"optim.peak_lr": LogUniform(1e-4, 1e-2)}, of
    jaxdl.search.space. Each trial is a run of its own; the best becomes an experiment file.

    Example: jaxdl sweep experiments/quickstart.py --trials 20 --pruner median --jobs 2

    Several machines work on one study when all are given one --storage. Whoever dies, his trials go
    on elsewhere. With cmaes the study holds pickles: share it with those you trust.

    Exit codes: 0 done, 1 no trial succeeded, 2 bad input, 75 SIGTERM, 130 Ctrl-C; after both, the
    same command goes on.

    Args:
        exp: experiment file, and one of its ABLATIONS.
        edits: changes one field in every trial, e.g. steps=100; repeat for more.
        trials: how many there shall be in all; default 20, of a grid all points.
        space: which dict of the file names what may vary.
        sampler: grid takes every combination of Choice and Integer.
        pruner: ends hopeless runs early, by what they evaluate.
        jobs: runs at a time on this machine, which divide its cores or GPUs among them.
        storage: where the study is kept, e.g. postgresql+psycopg://me@host/db; default a file.
        study: its name, and that of its folder; default that of the variant and the space.
        objective: what to improve, several with commas: valid/accuracy,seconds; with :min or :max
            where it cannot be known.
        seed: of the sampler.
        json: print one JSON object per trial and one for the best.
    """
    chosen = Search(space, sampler, pruner, seed, storage, study, objective)
    plan, view = _prepare(exp, edits, trials, jobs, chosen)
    if not json:
        _introduce(plan, view, chosen)
    with reaching(_url(storage, plan.folder)):
        code = Sweep(plan, view, _starter(plan), _teller(plan, json)).run()
        return code or _conclude(plan, view, json)


@dataclass(frozen=True)
class Search:
    """How a sweep searches, and where it keeps what it found."""

    space: str
    sampler: str
    pruner: str
    seed: int
    storage: str
    study: str
    objective: str


def _prepare(
    exp: str, edits: tuple[str, ...], trials: int | None, jobs: int, chosen: Search
) -> tuple[Plan, Study]:
    """Everything that can be wrong is found here, before anything runs."""
    experiment, variant = load_experiment(exp, edits)
    path = Path(exp.rpartition(":")[0] if ".py:" in exp else exp)
    space = find_space(load_file(path), chosen.space, experiment, str(path))
    objectives = parse_objectives(chosen.objective, experiment)
    every = cadence(experiment, objectives[0])
    if trials is not None and trials < 1:
        raise InputError(f"trials={trials} must be at least 1.")
    shares_of(jobs)
    if chosen.pruner != "none":
        _check_prunable(objectives, every, chosen.pruner)
    sampler = make_sampler(chosen.sampler, space, chosen.seed, len(objectives) > 1)
    points = len(grid(space)) if chosen.sampler == "grid" else None
    total = min(trials or points, points) if points else trials or TRIALS
    name = chosen.study or "-".join([*[variant] * (variant != "base"), chosen.space.lower()])
    folder = Path("runs") / path.stem / f"sweep-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(
        _url(chosen.storage, folder),
        f"{path.stem}/{name}",
        objectives,
        _facts(experiment, space, objectives, chosen),
        sampler,
        make_pruner(chosen.pruner, every, experiment.steps),
    )
    check_folder(folder, study)
    plan = Plan(exp, edits, experiment, space, objectives, folder, jobs)
    return plan, Study(study, space, new_worker(), total)


def _url(storage: str, folder: Path) -> str:
    return storage or f"sqlite:///{folder / 'study.db'}"


def _starter(plan: Plan) -> Start:
    """Trials divide the machine, and share what they compile."""
    shares, shared = shares_of(plan.jobs), sharing(plan.folder / "compiled")

    def begin(arguments: Sequence[str], log: Path, slot: int) -> Popen:
        env, cores = shares[slot]
        return start(arguments, log=log, env=shared | env, cores=cores)

    return begin


def _facts(
    experiment: Experiment, space: Space, objectives: Sequence[Objective], chosen: Search
) -> dict[str, Any]:
    """What all that work on one study must agree on."""
    return {
        "experiment": digest(experiment),
        "steps": experiment.steps,
        "space": {path: repr(domain) for path, domain in space.items()},
        "objective": [f"{objective.name}:{objective.mode}" for objective in objectives],
        "sampler": f"{chosen.sampler} with seed {chosen.seed}",
        "pruner": chosen.pruner,
    }


def _check_prunable(objectives: Sequence[Objective], every: int, pruner: str) -> None:
    if len(objectives) > 1:
        raise InputError(f"{pruner} prunes by one objective; leave --pruner out, or give one.")
    if not every:
        raise InputError(
            f"{pruner} has nothing to judge {objectives[0].name} by: add Evaluate(every=...) of "
            "that split to the experiment's hooks, or leave --pruner out."
        )


def _introduce(plan: Plan, study: Study, chosen: Search) -> None:
    done = sum(row.state in ENDED for row in study.rows())
    before = f", {done} of them done before" if done else ""
    way = f"{chosen.sampler}" + f" and {chosen.pruner} pruning" * (chosen.pruner != "none")
    print(f"{plan.spec}: {study.total} trials{before}, by {way}, into {plan.folder}")
    shown = Table(box=None, show_header=False, pad_edge=False)
    for path, domain in plan.space.items():
        shown.add_row(escape(path), escape(repr(domain)))
    rich.print(shown)


def _teller(plan: Plan, json: bool) -> Callable[[Row], None]:
    """Says how a trial ended."""

    def tell(row: Row) -> None:
        if json:
            screen.print_json(_described(plan, row))
            return
        edits = " ".join(f"{path}={_short(value)}" for path, value in row.labels.items())
        print(f"trial {row.number:<3} {row.state:<7} {_values(plan, row)}  {edits}", flush=True)
        if row.failure:
            print(f"          {row.failure} ({plan.run_of(row.number).with_suffix('.log')})")

    return tell


def _conclude(plan: Plan, study: Study, json: bool) -> int:
    """Shows and draws what was found, and writes the best trial as an experiment."""
    rows, best = study.rows(), study.best()
    if not best:
        print(f"jaxdl: no trial of {plan.folder} succeeded; see the logs there.", file=sys.stderr)
        return 1
    shares, first = study.importance(), best[0]
    edits = edits_of(plan.space, first.labels)
    told = ", ".join(f"{o.name} {v:.6g}" for o, v in _pairs(plan, first))
    title = f"The best of {len(rows)} trials of {plan.spec}, number {first.number}: {told}."
    write_variant(plan.folder / BEST, plan.spec, plan.sets, edits, title)
    done = [row for row in rows if row.state == "done"]
    points = [(row.labels, row.values[0]) for row in done]
    name = plan.objectives[0].name
    draw_parallel(plan.folder / PARALLEL, plan.space, points, name, done.index(first))
    if shares:
        draw_importance(plan.folder / IMPORTANCE, shares, name)
    if json:
        front = [_described(plan, row) for row in best]
        screen.print_json({"best": front, "importance": shares, "file": str(plan.folder / BEST)})
    else:
        _print_best(plan, rows, best, shares)
        _print_command(plan, edits)
    return 0


def _print_best(plan: Plan, rows: Sequence[Row], best: Sequence[Row], shares: dict) -> None:
    counts = {state: sum(row.state == state for row in rows) for state in ENDED}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    sign = 1 if plan.objectives[0].mode == "min" else -1
    several = len(plan.objectives) > 1
    done = sorted(
        (r for r in rows if r.state == "done"), key=lambda r: (sign * r.values[0], r.number)
    )
    shown = Table("Pareto front" if several else "best trials", box=None, pad_edge=False)
    for objective in plan.objectives:
        shown.add_column(escape(objective.name), justify="right", style="bold")
    for path in plan.space:
        shown.add_column(escape(path), justify="right")
    for row in best if several else done[:SHOWN]:
        values = [f"{value:.6g}" for value in row.values]
        labels = [escape(_short(row.labels[path])) for path in plan.space]
        shown.add_row(str(row.number), *values, *labels)
    if shares:
        shown.add_section()
        parts = [f"{shares.get(path, 0):.0%}" for path in plan.space]
        shown.add_row("importance", *[""] * len(plan.objectives), *parts, style="dim")
    rich.print(shown)


def _print_command(plan: Plan, edits: Mapping[str, Any]) -> None:
    if texts := spelt(plan.experiment, edits):
        sets = [part for text in (*plan.sets, *texts) for part in ("--set", text)]
        print(shlex.join(["jaxdl", "train", plan.spec, *sets]))
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name in (BEST, IMPORTANCE, PARALLEL):
        if (plan.folder / name).exists():
            grid.add_row(Path(name).stem, str(plan.folder / name), style="dim")
    rich.print(grid)


def _described(plan: Plan, row: Row) -> dict[str, Any]:
    values = {objective.name: value for objective, value in _pairs(plan, row)}
    shown = {"trial": row.number, "state": row.state, "values": values, "set": row.labels}
    run = {"run": str(plan.run_of(row.number))}
    return shown | run | ({"failure": row.failure} if row.failure else {})


def _pairs(plan: Plan, row: Row) -> list[tuple[Objective, float]]:
    return list(zip(plan.objectives, row.values, strict=False))


def _values(plan: Plan, row: Row) -> str:
    return "  ".join(f"{objective.name} {value:<8.6g}" for objective, value in _pairs(plan, row))


def _short(label: Any) -> str:
    return f"{label:.4g}" if isinstance(label, float) else str(label)
