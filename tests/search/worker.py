"""One worker of a sweep whose runs are those of child.py, and what tests make of it.

Run:    python worker.py '{"url": ..., "folder": ..., "total": 20}'
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from jaxdl.core.loading import load_experiment, load_file
from jaxdl.search.objective import cadence, parse_objectives
from jaxdl.search.study import Study, make_pruner, make_sampler, open_study
from jaxdl.search.sweep import Plan, Sweep, new_worker

CHILD = Path(__file__).with_name("child.py")
EXPERIMENT = """
from dataclasses import dataclass

from jaxdl.core import Experiment
from jaxdl.search.space import Choice, Integer, LogUniform, Uniform


@dataclass(frozen=True)
class Net:
    x: float = 0.0
    y: float = 1.0
    width: int = 16
    kind: str = "a"
    shape: tuple[int, ...] = ()

    def __post_init__(self):
        if self.width % 2 or (self.width > 16 and self.kind == "b"):
            raise ValueError(f"width={self.width} does not suit kind {self.kind}")


@dataclass(frozen=True)
class Task:
    primary: str = "valid/loss"
    mode: str = "min"


@dataclass(frozen=True)
class Every:
    every: int
    split: str = "valid"


def base():
    hooks = (Every(1),)
    return Experiment(model=Net(), task=Task(), data=None, optim=None, steps=81, hooks=hooks)


ABLATIONS = {"wide": {"model.width": 32}}
SPACE = {"model.x": Uniform(0, 1)}
BOTH = {"model.x": Uniform(0, 1), "model.y": LogUniform(1e-3, 1)}
DEATHS = {"model.kind": Choice(("killed once", "killed"))}
KINDS = {"model.kind": Choice(("a", "crash", "nan", "b")), "model.width": Choice((16, 32))}
"""


def start(arguments, log: Path, delay: float = 0.0) -> subprocess.Popen:
    command = [sys.executable, "-S", "-E", str(CHILD), str(delay), *arguments]
    with log.open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)


def make(
    folder: Path,
    total: int,
    *,
    url: str = "",
    space: str = "SPACE",
    sampler: str = "random",
    pruner: str = "none",
    objective: str = "",
    delay: float = 0.0,
    tell=lambda row: None,
    **plan,
) -> tuple[Sweep, Study]:
    """A sweep of exp.py beside `folder`, and its study."""
    file = folder.parent / "exp.py"
    if not file.exists():
        file.write_text(EXPERIMENT)
    exp, _ = load_experiment(str(file))
    found = getattr(load_file(file), space)
    objectives = parse_objectives(objective, exp)
    folder.mkdir(exist_ok=True)
    study = open_study(
        url or f"sqlite:///{folder}/study.db",
        "test",
        objectives,
        {"total": "any"},
        make_sampler(sampler, found, 0, len(objectives) > 1),
        make_pruner(pruner, cadence(exp, objectives[0]), exp.steps),
    )
    view = Study(study, found, new_worker(), total)
    made = Plan(str(file), (), exp, found, objectives, folder, **plan)
    return Sweep(made, view, lambda argv, log, slot: start(argv, log, delay), tell), view


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    sys.exit(make(Path(options.pop("folder")), options.pop("total"), **options)[0].run())
