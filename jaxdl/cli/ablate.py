"""`jaxdl ablate`."""

from __future__ import annotations

import fcntl
import math
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any

import tyro

from jaxdl import report
from jaxdl.cli import screen
from jaxdl.cli.report import print_study
from jaxdl.cli.shares import Share, shares_of
from jaxdl.cli.start import sharing, start
from jaxdl.cli.studying import Watcher, describe, print_left, seconds_of, terminal
from jaxdl.cli.train import Directory, Edits
from jaxdl.core.errors import InputError
from jaxdl.search import Ablation, Cell, Plan, Pool, make_plan
from jaxdl.search.ablation import Start, was_killed

File = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
Names = Annotated[str, tyro.conf.arg(metavar="VARIANT,...")]
Duration = Annotated[str, tyro.conf.arg(metavar="TIME")]


def ablate(
    exp: File,
    edits: Edits = (),
    seeds: int = 5,
    only: Names = "",
    jobs: int = 1,
    budget: Duration = "",
    run_dir: Directory = None,
    dry_run: screen.Flag = False,
    json: screen.Flag = False,
) -> int:
    """Train every variant of an experiment with several seeds, and report what differs.

    The variants of one seed see the same data in the same order and, where their shapes allow,
    begin with the same parameters. Each run is the one that `jaxdl train FILE:VARIANT --set seed=K`
    makes, so that finished runs count; the same command again goes on where it was left.

    Example: jaxdl ablate experiments/quickstart.py --seeds 5 --budget 30m

    Exit codes: 0 done or out of budget, 1 a run failed, 2 bad input, 75 after SIGTERM, 130 after
    Ctrl-C.

    Args:
        exp: experiment file with ABLATIONS.
        edits: changes one field in every variant, e.g. steps=200; repeat for more.
        seeds: how many, from the experiment's own on.
        only: some of the variants; base is always among them.
        jobs: runs at a time, which divide the cores or GPUs among them. With fewer cores sums round
            otherwise, so that bits are the same only among runs of one number of jobs.
        budget: starts no run that would not end within it, e.g. 90s, 30m or 2h.
        run_dir: where runs, logs and report are kept; default runs/FILE and below.
        dry_run: only show the plan.
        json: print one JSON object per variant, and per run of a plan.
    """
    limit = seconds_of(budget) if budget else math.inf
    names = [name.strip() for name in only.split(",") if name.strip()]
    plan = make_plan(exp, seeds=seeds, only=names, sets=edits, directory=run_dir)
    if dry_run:
        return _show(plan, jobs, json)
    shares = shares_of(jobs)
    with _alone(plan.folder):
        ended_by = _run(plan, shares, limit)
        _report(plan, json)
    if ended_by:
        return 130 if ended_by == signal.SIGINT else 75
    return 1 if plan.of("failed") else 0


def _run(plan: Plan, shares: Sequence[Share], limit: float) -> int | None:
    """Trains what is not finished; the signal that ended it."""
    pool, console = Pool(len(shares)), terminal(stderr=True)
    ablation = Ablation(plan, _starter(plan, shares), pool, limit)
    describe(plan, console, pool.size)
    with pool.stopping(), Watcher(ablation) as watch:
        ablation.run(watch)
    print_left(ablation, console)
    return pool.received


def _show(plan: Plan, jobs: int, json: bool) -> int:
    if not json:
        describe(plan, terminal(stderr=False), jobs)
        return 0
    for cell in plan.cells:
        told = {name: getattr(cell, name) for name in ("variant", "seed", "state", "seconds")}
        screen.print_json(told | {"run": str(cell.run), "estimate": plan.estimate(cell)})
    return 0


def _starter(plan: Plan, shares: Sequence[Share]) -> Start:
    folder = plan.folder / "compiled"
    shared = sharing(folder)
    if was_killed(plan.folder):
        _empty(folder)

    def begin(cell: Cell, slot: int) -> Popen:
        if cell.tries > 1:
            _empty(folder)
        env, cores = shares[slot]
        return start(plan.arguments(cell), log=plan.log(cell), env=shared | env, cores=cores)

    return begin


def _empty(cache: Path) -> None:
    """A process that was killed may have left half a program in it."""
    for entry in cache.glob("*"):
        entry.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second ablation out of the study."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another `jaxdl ablate` is at work in {folder}; wait for it, or choose another "
                "--run-dir."
            ) from None
        yield
    finally:
        os.close(lock)


def _report(plan: Plan, json: bool) -> None:
    """Writes the report of what there is, and prints it in short."""
    cells = [report.Cell(c.variant, c.seed, c.run, c.error) for c in plan.cells]
    edits = {name: edits for name, edits in plan.variants.items() if name != "base"}
    found = report.study(cells, title=_title(plan), edits=edits)
    written = report.write_report(found, plan.folder)
    if json:
        for line in _lines(found):
            screen.print_json(line | {"report": str(written[1])})
        return
    print_study(found)
    print(*written, sep="\n")


def _lines(found: report.Study) -> list[dict[str, Any]]:
    """One per variant, also where no run has finished and so nothing was measured."""
    none = [
        {
            "variant": name,
            "metric": None,
            "headline": True,
            "seeds": 0,
            "failed": sum(run.cell.variant == name for run in found.failed),
            "verdict": found.verdicts.get(name, ""),
        }
        for name in found.variants
    ]
    return [line for line in found.lines() if line["headline"]] or none


def _title(plan: Plan) -> str:
    edits = f" with {', '.join(plan.sets)}" if plan.sets else ""
    return f"Ablation of {Path(plan.file).stem}{edits}"
