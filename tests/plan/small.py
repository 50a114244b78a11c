"""A language model, as small as a plan needs."""

from dataclasses import dataclass, replace

import numpy as np

from jaxdl.core import Experiment
from jaxdl.data import ArraySource, Splits
from jaxdl.models.gpt import GPT
from jaxdl.optim import AdamW
from jaxdl.plan import audit, compiled, devices
from jaxdl.tasks import LanguageModel
from jaxdl.train import build


@dataclass(frozen=True)
class Tokens(Splits):
    """As many as a batch has."""

    seq: int = 32

    def train(self):
        return ArraySource({"tokens": np.zeros((self.batch, self.seq + 1), np.int32)})


EXPERIMENT = Experiment(
    model=GPT(vocab=256, width=64, depth=2, heads=4, seq=32),
    task=LanguageModel(),
    data=Tokens(batch=32),
    optim=AdamW(peak_lr=1e-3),
    steps=10,
)


def experiment(model=EXPERIMENT.model, *, remat="full", batch=32, **changes):
    """The experiment with another model, whose sequences are as long as it can take."""
    data = Tokens(batch=batch, seq=model.seq)
    return replace(EXPERIMENT, model=replace(model, remat=remat), data=data, **changes)


def audited(exp, target):
    """Program, plan and audit of `exp` for `target`."""
    program = build(exp, devices(target))
    plan = compiled(program)
    return program, plan, audit(program, plan)


def ratios(found):
    """Bytes over the minimum, by axes, where at least a kilobyte is sent."""
    return {t.axes: t.ratio for t in found.traffic if t.bytes > 1000}
