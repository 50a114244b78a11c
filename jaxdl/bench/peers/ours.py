"""jaxdl's own training step, built from an experiment as every run builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np

from jaxdl.bench import workloads
from jaxdl.bench.workloads import DECAY, LR, Workload
from jaxdl.core import Experiment, tree
from jaxdl.data import ArraySource, Splits
from jaxdl.metrics import compute, merge
from jaxdl.models.gpt import GPT
from jaxdl.models.lstm import LSTMLanguageModel
from jaxdl.models.resnet import BasicBlock, Bottleneck, ResNet
from jaxdl.models.vit import ViT
from jaxdl.optim import AdamW, Constant
from jaxdl.tasks import Classification, LanguageModel
from jaxdl.train import build, training_batches


@dataclass(frozen=True)
class Resident(Splits):
    """The one batch of a workload."""

    workload: Any = None

    def train(self) -> ArraySource:
        """As many examples as a batch has."""
        return _source(self.workload)


def step(family: str, **shape: Any) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Runs n updates of the workload on one resident batch; the loss of the last."""
    exp = experiment(workloads.of(family, **shape))
    program = build(exp, jax.devices()[:1])
    batch = training_batches(program)(0)
    state = program.init()

    def run(n: int) -> float:
        nonlocal state
        for _ in range(n):
            state, metrics = program.step(state, batch)
        jax.block_until_ready(state)
        return compute(merge([metrics]))["loss"]

    params = tree.size(program.abstract.params)
    return run, {"params": params, "device": jax.devices()[0].device_kind}


def experiment(work: Workload) -> Experiment:
    """The workload as a user would write it."""
    return Experiment(
        model=MODELS[work.family](work),
        task=Classification() if work.unit == "examples" else LanguageModel(),
        data=Resident(batch=work.batch, workload=work),
        optim=AdamW(LR, decay=DECAY, no_decay=(), schedule=Constant()),
        steps=1_000_000,
    )


@cache
def _source(work: Workload) -> ArraySource:
    x, y = work.arrays()
    if work.unit == "examples":
        return ArraySource({"image": x, "label": y}, sizes={"label": work.classes})
    window = np.concatenate([x, y[:, -1:]], axis=1)
    return ArraySource({"tokens": window}, sizes={"tokens": work.vocab})


def _resnet(work: workloads.ResNet) -> ResNet:
    block = {"basic": BasicBlock, "bottleneck": Bottleneck}[work.block]
    return ResNet(work.stages, work.width, work.stem, work.classes, block=block)


def _vit(work: workloads.ViT) -> ViT:
    sizes = work.patch, work.width, work.depth, work.heads, work.classes
    return ViT(*sizes, approximate=True)  # as in the other frameworks' models here


def _gpt(work: workloads.GPT) -> GPT:
    return GPT(work.vocab, work.width, work.depth, work.heads, work.seq)


def _lstm(work: workloads.LSTM) -> LSTMLanguageModel:
    return LSTMLanguageModel(work.vocab, work.width, work.width, work.depth)


MODELS = {"resnet": _resnet, "vit": _vit, "gpt": _gpt, "lstm": _lstm}
