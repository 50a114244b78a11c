"""Experiments for the laws of parallelism, every mesh of 8 devices, and what an update leaves."""

from dataclasses import dataclass, replace
from itertools import product
from math import prod

import jax
import numpy as np

from jaxdl.core import Experiment
from jaxdl.data import ArraySource, Splits
from jaxdl.metrics import compute
from jaxdl.models.gpt import GPT
from jaxdl.models.resnet import ResNet
from jaxdl.models.vit import ViT
from jaxdl.optim import SGD, Constant
from jaxdl.parallel.mesh import AXES
from jaxdl.tasks import Classification, LanguageModel
from jaxdl.train import build, evaluate, training_batches

ONE = jax.devices()[:1]
ROWS = 32
PLAIN = Constant()


@dataclass(frozen=True)
class Random(Splits):
    """Tokens [17] or images [16, 16, 3] with labels; the held-out ones do not fill a batch."""

    batch: int = ROWS
    eval_batch: int = ROWS
    kind: str = "tokens"

    def train(self):
        return self._source(96, 0)

    def valid(self):
        return self._source(45, 1)

    def _source(self, count, seed):
        rng = np.random.default_rng(seed)
        if self.kind == "tokens":
            rows = np.arange(17)[None] * rng.integers(1, 5, (count, 1)) + rng.integers(
                9, size=(count, 1)
            )
            return ArraySource({"tokens": (rows % 250).astype(np.int32)})
        labels = rng.integers(10, size=count).astype(np.int32)
        images = rng.normal(size=(count, 16, 16, 3)) + labels[:, None, None, None]
        return ArraySource({"image": images.astype(np.float32), "label": labels})


GPT_2 = GPT(vocab=250, width=32, depth=4, heads=8, seq=16, dropout=0.1, kv_heads=4, pad_vocab=64)


def experiment(model, kind="tokens"):
    task = LanguageModel() if kind == "tokens" else Classification()
    optim = SGD(peak_lr=0.1, schedule=PLAIN)
    return Experiment(model=model, task=task, data=Random(kind=kind), optim=optim, steps=20)


EXPERIMENTS = {
    "resnet": experiment(ResNet(stages=(1, 1), width=8, classes=10), "image"),
    "vit": experiment(ViT(4, 32, 4, 4, 10), "image"),
    "gpt": experiment(GPT_2),
    "moe": experiment(replace(GPT_2, experts=4)),
}
MESHES = [
    {name: size for name, size in zip(AXES, sizes, strict=True) if size > 1}
    for sizes in product((1, 2, 4, 8), repeat=len(AXES))
    if prod(sizes) == 8
]


def told(mesh):
    """`data=2 model=4`."""
    return " ".join(f"{name}={size}" for name, size in mesh.items())


def trained(exp, steps, devices=None):
    """The program, its state after so many updates, and the metrics of each."""
    program = build(exp, devices)
    state, get, told = program.init(), training_batches(program), []
    for n in range(steps):
        state, metrics = program.step(state, get(n))
        program.settle(state)
        told.append(compute(metrics))
    return program, state, told


def updated(exp, steps, devices=None):
    """Parameters after so many updates, the loss of each, and the metrics of the held-out rows."""
    program, state, told = trained(exp, steps, devices)
    losses = [metrics["loss"] for metrics in told]
    return jax.device_get(state.params), losses, evaluate(program, state, "valid")
