"""`jaxdl train`."""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path
from typing import Annotated

import tyro

from jaxdl import parallel, report
from jaxdl.cli import launch, repeat, screen
from jaxdl.cli.progress import ProgressHook
from jaxdl.core import Experiment
from jaxdl.core.codec import dump
from jaxdl.core.errors import InputError
from jaxdl.core.loading import default_directory, load_experiment
from jaxdl.core.records import CHECKPOINTS, METRICS, TENSORBOARD
from jaxdl.parallel.processes import joined
from jaxdl.train import Fitted, evaluation_batches, fit
from jaxdl.train.passport import PACKAGES

log = logging.getLogger("jaxdl")
Spec = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE[:VARIANT]")]
From = Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")]
Edits = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="PATH=VALUE")
]
Directory = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
Several = Annotated[launch.Processes, tyro.conf.arg(name="")]


def train(
    exp: Spec = "",
    edits: Edits = (),
    run_dir: Directory = None,
    run: From = None,
    anyway: screen.Flag = False,
    workers: int = 0,
    strict_kernels: screen.Flag = False,
    json: screen.Flag = False,
    several: Several = launch.Processes(),  # noqa: B008 it is frozen
) -> int:
    """Train an experiment. The same command again resumes it, or prints a finished run's result.

    Example: jaxdl train experiments/quickstart.py:no_crop --set optim.peak_lr=1e-3 --set seed=1

    Exit codes: 0 done, 2 bad input, 75 preempted by SIGTERM, 130 ended by Ctrl-C; both after
    saving.

    Args:
        exp: experiment file, and one of its ABLATIONS.
        edits: changes one field, e.g. model.width=64; repeat for more.
        run_dir: where the run is kept; default runs/FILE/VARIANT-DIGEST. Several processes share
            it.
        run: repeat this run from its passport, by default into RUN-again. Where code, data,
            versions, devices or flags are not as they were, that is told and refused.
        anyway: repeat it all the same.
        workers: processes that prepare batches, where decoding them takes more than one core.
        strict_kernels: refuse to train where a kernel made for these devices cannot run a shape,
            for which another would be taken.
        json: print only the result, as one JSON object.
        several: see `Processes`.
    """
    source, experiment, place, arguments = _asked(exp, edits, run_dir, run, anyway)
    if several.processes > 1:
        options = ["--run-dir", str(place), "--workers", str(workers)]
        options += ["--strict-kernels"] * strict_kernels + ["--json"] * json
        arguments = ["train", *arguments, *options]
        return launch.launch(arguments, several.processes, several.devices_per_process)
    with joined(several.member, _facts(experiment, place)), parallel.strict_kernels(strict_kernels):
        if run:
            repeat.check(run, experiment, anyway)
        return _train(source, experiment, place, workers, json, run)


def _asked(
    exp: str, edits: Edits, run_dir: Path | None, run: Path | None, anyway: bool
) -> tuple[str, Experiment, Path, list[str]]:
    """Source, experiment and directory of the run that was asked for, and the arguments for it."""
    if run is None:
        if anyway:
            raise InputError("--anyway goes with --from RUN; leave it out, or name the run.")
        if not exp:
            raise InputError("name an experiment file, or a run to repeat with --from RUN.")
        experiment, variant = load_experiment(exp, edits)
        place = run_dir or default_directory(exp, variant, experiment)
        sets = [part for edit in edits for part in ("--set", edit)]
        return " ".join([exp, *edits]), experiment, place, [exp, *sets]
    if exp or edits:
        raise InputError(
            f"--from {run} repeats that run as it was; leave {exp or '--set'} out, or train the "
            "experiment file with --set."
        )
    experiment, passport = repeat.passport_of(run)
    place = run_dir or run.with_name(f"{run.name}-again")
    if place.resolve() == run.resolve():
        raise InputError(f"{place} holds the run that is to be repeated; choose another --run-dir.")
    arguments = ["--from", str(run), *["--anyway"] * anyway]
    return passport.source, experiment, place, arguments


def _facts(experiment: Experiment, place: Path) -> dict:
    """What every process of a run must have been started with."""
    versions = {name: metadata.version(name) for name in ("jaxdl", *PACKAGES)}
    return {
        "experiment": dump(experiment),
        "run directory": str(place.absolute()),
        "version": versions,
    }


def _train(
    source: str,
    experiment: Experiment,
    place: Path,
    workers: int,
    json: bool,
    repeated: Path | None,
) -> int:
    """Trains; of several processes the first says so."""
    quiet = not parallel.is_first()
    if quiet:
        logging.getLogger("jaxdl").setLevel(logging.WARNING)

    def watch(program, run):
        if not quiet:  # before trackers take the pictures
            run.ended.insert(0, lambda result: report.draw_curves(place))
        if json or quiet:
            return ()
        devices = f"{program.mesh.size} device" + "s" * (program.mesh.size > 1)
        exp, kind = source.partition(" ")[0], program.mesh.devices.flat[0].device_kind
        print(f"{exp} on {devices} ({kind}), into {place}")
        screen.print_model(program)
        return (ProgressHook(experiment.steps, run),)

    fitted = fit(experiment, place, source=source, watch=watch, workers=workers)
    _draw(fitted, place)
    if not quiet and json:
        screen.print_json({"run": str(place), **vars(fitted.result)})
    elif not quiet:
        screen.print_result(fitted.result, _places(place))
    if repeated and not quiet and fitted.result.finished:
        log.info("%s.", repeat.compared(repeated, place))
    return fitted.code


def _draw(fitted: Fitted, place: Path) -> None:
    """Curves, and samples of the test split where the run has just been evaluated."""
    program, state = fitted.program, fitted.state
    first = parallel.is_first()
    if first and not (place / report.CURVES).exists():
        report.draw_curves(place)
    if program is None or state is None:
        return
    data = program.experiment.data
    split = next((s for s in ("test", "valid") if getattr(data, s)() is not None), None)
    if split:
        batch = evaluation_batches(program, split)[0](0)
        shown = parallel.fetched((dict(batch), program.predict(state, batch, 0)))
        if first:
            report.draw_samples(place, *shown)


def _places(place: Path) -> dict[str, Path]:
    """Where everything is, as far as it exists."""
    names = (report.CURVES, report.SAMPLES, METRICS, CHECKPOINTS, TENSORBOARD)
    return {Path(name).stem: place / name for name in names if (place / name).exists()}
