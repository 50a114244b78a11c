"""Runs of the past, trained again in child processes with their own code and environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from jaxdl.cli import again
from jaxdl.cli.start import bound
from jaxdl.core import flags
from jaxdl.core.errors import InputError
from jaxdl.core.loading import split_source
from jaxdl.core.records import Code, Passport, read_code, read_passport, read_records, read_result
from jaxdl.report.bisect import Outcome, Trial
from jaxdl.report.differences import IDLE
from jaxdl.report.sources import Sources
from jaxdl.train.surroundings import SETTINGS


class Reruns:
    """Trains trials of run a with some of run b's ways; use it as a context."""

    def __init__(self, a: Path, b: Path):
        self._a, self._b = _Side(a), _Side(b)
        self._count = 0

    def __enter__(self) -> Reruns:
        """Makes room for them."""
        self._folder = tempfile.TemporaryDirectory(prefix="jaxdl-why-")
        return self

    def __exit__(self, *_: object) -> None:
        """Removes what they left."""
        self._folder.cleanup()

    def __call__(self, trial: Trial, until: int) -> Outcome:
        """Trains one, up to step `until`."""
        self._count += 1
        place = Path(self._folder.name) / str(self._count)
        place.mkdir()
        try:
            own, here = self._code(place, trial)
            env = self._environment(trial, own)
        except InputError as error:
            return Outcome(failed=str(error))
        request = {
            "file": split_source(self._a.passport.source)[0],
            "experiment": trial.experiment,
            "until": until,
            "directory": str(place / "run"),
        }
        (place / "request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [sys.executable, "-P", again.__file__, str(place / "request.json")],
            cwd=here,
            env=env,
            capture_output=True,
            text=True,
            preexec_fn=bound(),
        )
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            return Outcome(failed=last[0] if last else f"exit code {done.returncode}")
        run = place / "run"
        return Outcome(list(read_records(run)), read_result(run))

    def _environment(self, trial: Trial, own: Path) -> dict[str, str]:
        """This process's environment, with the trial's where it matters."""
        known = {k for k in os.environ if k.startswith(flags.PREFIXES)}
        known |= self._a.passport.flags.keys() | self._b.passport.flags.keys()
        env = {k: v for k, v in os.environ.items() if k.startswith(IDLE) or k not in known}
        before = self._a.passport.flags
        for name, value in trial.flags.items():
            if name in SETTINGS:
                if value != before.get(name):
                    env[name.upper()] = value
            elif not name.startswith(IDLE):
                env[name] = _value(name, value)
        paths = [str(own), *filter(None, [trial.flags.get("PYTHONPATH")])]
        return env | {"PYTHONPATH": os.pathsep.join(paths)}

    def _code(self, place: Path, trial: Trial) -> tuple[Path, Path]:
        """Where jaxdl is for a trial, and the folder to run in."""
        side = self._a
        roots = {name: Path(root) for name, root in side.code.roots.items()}
        folder = Path(side.passport.folder)
        if not trial.files and side.in_place():
            return roots["jaxdl"], folder
        for name in ("jaxdl", "here"):
            self._write(name, place / name, trial)
        kernels = place / "jaxdl" / "kernels"
        if kernels.is_dir():  # beside the package in its repository, inside it for Python
            (place / "jaxdl" / "jaxdl" / "kernels").symlink_to(kernels)
        inside = folder.is_relative_to(roots["here"])
        here = place / "here" / (folder.relative_to(roots["here"]) if inside else "")
        here.mkdir(parents=True, exist_ok=True)
        _mirror(folder, here)
        return place / "jaxdl", here

    def _write(self, place: str, folder: Path, trial: Trial) -> None:
        folder.mkdir()
        names = self._a.code.files[place].keys() | {n for p, n in trial.files if p == place}
        for name in names:
            side = self._b if (place, name) in trial.files else self._a
            if Path(name).is_absolute() or name not in side.code.files[place]:
                continue
            content = side.sources.text(place, name)
            if content is None:
                raise InputError(
                    f"{name} of {side.sources.run} is neither where it was nor in a repository"
                )
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def _value(name: str, told: str) -> str:
    """A variable's value; of what a passport keeps a digest, that of this process must fit."""
    if not told.startswith(flags.DIGEST):
        return told
    value = os.environ.get(name, "")
    if flags.kept(name, value) != told:
        raise InputError(f"of {name} only a digest was kept; set it to what it was, and try again")
    return value


class _Side:
    def __init__(self, run: Path):
        code = read_code(run)
        if code is None:
            raise InputError(f"{run} is from before code was kept; it cannot be run again.")
        self.passport: Passport = read_passport(run)
        self.code: Code = code
        self.sources = Sources(run, self.passport, code)

    def in_place(self) -> bool:
        """Whether all its code is still where it was."""
        return all(
            self.sources.on_disk(place, n) for place, f in self.code.files.items() for n in f
        )


def _mirror(source: Path, target: Path) -> None:
    """Links into `target` whatever of `source` is not there: data lie beside code."""
    for entry in source.iterdir() if source.is_dir() else ():
        there = target / entry.name
        if not there.exists():
            there.symlink_to(entry)
        elif entry.is_dir() and not there.is_symlink():
            _mirror(entry, there)
