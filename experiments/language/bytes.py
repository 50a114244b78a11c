"""A small byte-level GPT on the project's own source: how far below the bytes' own statistics?

Data:   the project's Python and Markdown files as bytes, read from the working directory (the
        repository root); the last twentieth is for testing. Numbers move as the project grows.
Expect: test/loss 1.77 nats per byte, where byte frequencies give 3.25 and byte pairs 2.56; one to
        two minutes on 2 CPU cores. One seed each: bf16 1.77, shallow 1.77 (at this length depth
        buys nothing), dropout 1.96, no_warmup 2.32, no_clip 2.39.
Run:    jaxdl train experiments/language/bytes.py
"""

from jaxdl.core import Experiment
from jaxdl.data import Text
from jaxdl.models.gpt import GPT
from jaxdl.optim import AdamW, Cosine
from jaxdl.search.space import Choice, Integer, LogUniform
from jaxdl.tasks import LanguageModel
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """A GPT of 2 blocks of width 128, 500 updates of 16 windows of 128 bytes."""
    return Experiment(
        model=GPT(vocab=256, width=128, depth=2, heads=4, seq=128),
        task=LanguageModel(),
        data=Text(files=("*.md", "jaxdl/**/*.py", "kernels/**/*.md"), seq=128, batch=16),
        optim=AdamW(
            peak_lr=3e-3, b2=0.99, decay=0.1, clip=1.0, schedule=Cosine(warmup=50, end=0.1)
        ),
        steps=500,
        hooks=(Log(every=25), Evaluate(every=100), Save(every=100)),
    )


ABLATIONS = {
    "shallow": {"model.depth": 1},
    "no_warmup": {"optim.schedule.warmup": 0},
    "no_clip": {"optim.clip": 0.0},
    "dropout": {"model.dropout": 0.1},
    "bf16": {"precision": "bf16"},
}

SPACE = {
    "optim.peak_lr": LogUniform(3e-4, 1e-2),
    "optim.schedule.warmup": Integer(0, 100, step=10),
    "model.depth": Integer(1, 4),
    "model.heads": Choice((2, 4, 8)),
}
