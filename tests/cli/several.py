"""An experiment for several processes that tells what each read, and in which one misbehaves.

$TOLD is the folder that it tells in.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax

from jaxdl.core import Experiment
from jaxdl.core.loading import load_file
from jaxdl.data import ArraySource, Digits
from jaxdl.optim import SGD, Constant
from jaxdl.train import Evaluate, Histograms, Log, Save

small = load_file(__file__.replace("cli/several", "train/small"))
EXAMPLES = 320
"""Of the training split: five batches."""


class Telling(ArraySource):
    """Writes the numbers of the examples that are read, a line per batch, a file per process."""

    def take(self, indices):
        """The examples."""
        folder = Path(os.environ.get("TOLD", os.devnull))
        if folder.is_dir():
            with (folder / f"read-{jax.process_index()}").open("a") as file:
                print(*indices, file=file)
        return super().take(indices)


@dataclass(frozen=True)
class Few(Digits):
    """The first digits."""

    def train(self):
        """The examples to learn from."""
        arrays = {name: leaf[:EXAMPLES] for name, leaf in super().train().arrays.items()}
        return Telling(arrays, sizes={"label": 10})


def fail() -> None:
    """An error in one process only."""
    raise RuntimeError("this process has had enough")


def send(number: int) -> None:
    """A signal to this process."""
    os.kill(os.getpid(), number)


ACTS: dict[str, Callable[[], None]] = {
    "fail": fail,
    "SIGKILL": lambda: send(signal.SIGKILL),
    "SIGTERM": lambda: send(signal.SIGTERM),
    "SIGINT": lambda: send(signal.SIGINT),
}


@dataclass(frozen=True)
class Once:
    """At update `step` something happens in one process, in the first sitting that comes there;
    what follows is slow, as a signal takes a second to be noticed."""

    act: str
    step: int
    process: int

    def open(self, program, run):
        """The hook."""
        return Happening(self)


@dataclass
class Happening:
    """See `Once`."""

    config: Once
    acted: bool = False
    done: Path = field(default_factory=lambda: Path(os.environ["TOLD"]) / "done")

    def __call__(self, step, state, metrics):
        """Acts when it is time."""
        here = step == self.config.step and jax.process_index() == self.config.process
        if here and not self.done.exists():
            self.done.touch()
            self.acted = True
            ACTS[self.config.act]()
        if self.acted:
            time.sleep(0.2)

    def close(self):
        """Nothing to do."""


WRITES = 8.0
"""Seconds that `Writer` takes, longer than a launcher waits for a process that stands still."""


@dataclass(frozen=True)
class Writer:
    """At the end of a sitting process 0 writes for long, into a file of $TOLD."""

    def open(self, program, run):
        """The hook."""
        return Writing()


class Writing:
    """See `Writer`."""

    def __call__(self, step, state, metrics):
        """Nothing to do."""

    def close(self):
        """Writes, mostly waiting."""
        if jax.process_index():
            return
        end = time.monotonic() + WRITES
        with (Path(os.environ["TOLD"]) / "written").open("w") as file:
            while time.monotonic() < end:
                file.write("x" * 4096)
                file.flush()
                os.fsync(file.fileno())
                time.sleep(0.3)
            file.write("whole")


def base() -> Experiment:
    """Dropout, augmentation, batch norm and EMA; a kernel large enough for Orbax."""
    return replace(
        small.base(),
        model=small.Net(width=512),
        data=Few(**vars(small.base().data)),
        optim=SGD(peak_lr=0.1, schedule=Constant()),
        steps=5,
        hooks=(Log(every=1), Evaluate(every=5), Save(every=5)),
    )


ABLATIONS = {
    "fsdp": {"mesh": {"fsdp": -1}},
    "bits": {"mesh": {"data": 2, "fsdp": -1}, "deterministic_shards": 8},
    "explicit": {"collectives": "explicit", "model.dropout": 0.0},
    "long": {
        "mesh": {"data": 2, "fsdp": -1},
        "steps": 40,
        "hooks": (Log(every=3), Evaluate(every=10), Histograms(every=20), Save(every=10)),
    },
}


for name, once in {
    "killed": Once("SIGKILL", 25, 1),
    "failing": Once("fail", 25, 1),
    "preempted": Once("SIGTERM", 15, 3),
    "interrupted": Once("SIGINT", 15, 0),
    "writing": Once("fail", 25, 1),
}.items():
    hooks = (*[Writer()] * (name == "writing"), once, *ABLATIONS["long"]["hooks"])
    ABLATIONS[name] = ABLATIONS["long"] | {"hooks": hooks}
