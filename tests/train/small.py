"""Small experiments for the tests of training, and a child process that ends in the middle of one.

Run:    python tests/train/small.py VARIANT DIRECTORY STEP SIGNAL
"""

import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxdl.core import Experiment, dump, load_experiment
from jaxdl.core.loading import load_file
from jaxdl.core.records import read_records
from jaxdl.data import Crop, Digits, Scale
from jaxdl.models.gan import GAN, Critic, Generator
from jaxdl.nn import batch_norm, dense, dropout
from jaxdl.optim import AdamW, Adversaries, Constant, Cosine
from jaxdl.tasks import Adversarial, Classification
from jaxdl.train import Evaluate, Log, Save, fit

TO_TANH = (Scale(0, 16, to_low=-1.0, to_high=1.0),)
ADAM = AdamW(peak_lr=5e-4, b1=0.5, schedule=Constant())


class Net(nn.Module):
    """Dropout and batch normalisation in one small classifier."""

    width: int = 16
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = dense(self.width, name="hidden")(x.reshape(x.shape[0], -1))
        x = nn.relu(batch_norm(train, name="norm")(x))
        return dense(10, ("embed", "classes"), name="head")(dropout(self.dropout, train)(x))


def base() -> Experiment:
    """Dropout, augmentation, batch norm, EMA, decay and a schedule."""
    return Experiment(
        model=Net(),
        task=Classification(),
        data=Digits(batch=64, eval_batch=120, train_transform=(Scale(0, 16), Crop(1))),
        optim=AdamW(peak_lr=1e-2, decay=0.01, schedule=Cosine(warmup=5)),
        steps=60,
        ema=0.9,
        hooks=(Log(every=1), Evaluate(every=20), Save(every=10)),
    )


def gan() -> Experiment:
    """Two players, one slower than the other, and their average."""
    return Experiment(
        model=GAN(Generator(hidden=8, shape=(8, 8, 1), latent=4), Critic(hidden=8)),
        task=Adversarial(),
        data=Digits(batch=64, eval_batch=120, train_transform=TO_TANH, eval_transform=TO_TANH),
        optim=Adversaries(generator=ADAM, critic=ADAM),
        steps=16,
        ema=0.9,
        hooks=(Log(every=3), Evaluate(every=8), Save(every=8)),
    )


ABLATIONS = {"log7": {"hooks.0.every": 7}}


@dataclass(frozen=True)
class Scripted:
    """A hook config that writes value i of a script at update `every * (i + 1)`; None as NaN."""

    split: str
    name: str
    values: tuple[float | None, ...]
    every: int = 1

    def open(self, program, run):
        """The hook."""

        def write():
            i = hook.now // self.every - 1
            if hook.now % self.every == 0 and i < len(self.values):
                value = math.nan if self.values[i] is None else self.values[i]
                run.write(hook.now, self.split, {self.name: value})

        hook = At(None, write)
        return hook


@dataclass
class At:
    """A hook, for `watch`, that does something after update `step`."""

    step: int | None
    act: Any
    now: int = 0

    def __call__(self, step, state, metrics):
        """Acts when it is time; at every update where `step` is None."""
        self.now = step
        if self.step in (None, step):
            self.act()

    def close(self):
        """Nothing to do."""


@contextmanager
def shared_programs() -> Iterator[None]:
    """`fit` compiles an experiment once, whatever its hooks; killed processes show that it may."""
    module, made = sys.modules["jaxdl.train.fit"], {}

    def build(exp, devices=None):
        key = json.dumps(dump(replace(exp, hooks=()))), tuple(devices or ())
        made[key] = made.get(key) or real(exp, devices)
        return replace(made[key], experiment=exp)

    real, module.build = module.build, build
    yield
    module.build = real


def watch(*hooks: Any) -> Any:
    """What `fit` takes as `watch`."""
    return lambda program, run: hooks


def send(*signals: int) -> Any:
    """An act: this process gets these signals, one after the other."""

    def act():
        for number in signals:
            os.kill(os.getpid(), number)

    return act


def told(directory: Path) -> list[tuple[int, str, dict[str, float]]]:
    """The records of a run without what only rates the machine."""
    found = read_records(directory)
    return [(r.step, r.split, dict(r.values)) for r in found if r.split != "perf"]


def leaves(state: Any) -> dict[str, bytes]:
    """Every leaf of a state as bytes."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in paths}


def main(arguments: Sequence[str]) -> None:
    """Trains on one device until the signal; before SIGKILL waits for the checkpoints if 'wait'."""
    variant, directory, step, name, *wait = arguments
    exp, _ = load_experiment(f"{os.path.relpath(__file__)}:{variant}")

    def hooks(program, run):
        act = send(getattr(signal, name))
        return (At(int(step), lambda: (run.checkpoints.wait() if wait else None, act())),)

    fit(exp, Path(directory), watch=hooks, devices=jax.devices()[:1])


if __name__ == "__main__":
    load_file(__file__).main(sys.argv[1:])
