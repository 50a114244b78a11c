"""A small byte-level GPT on the project's own source: how far below the byte entropy in two minutes?

Data:   the project's Python and Markdown files as bytes, read from the working directory (the
        repository root); the last tenth is held out. Numbers move a little as the project grows.
Expect: TODO
Run:    jaxdl train experiments/language/bytes.py
"""

from jaxdl.core import Experiment
from jaxdl.data import TextBytes
from jaxdl.models.gpt import GPT
from jaxdl.optim import AdamW, Cosine
from jaxdl.tasks import LanguageModel
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """A GPT of 2 blocks of width 128, 500 updates of 16 windows of 128 bytes."""
    return Experiment(
        model=GPT(vocab=256, width=128, depth=2, heads=4, seq=128),
        task=LanguageModel(),
        data=TextBytes(files=("*.md", "jaxdl/**/*.py", "kernels/**/*.md"), seq=128, batch=16),
        optim=AdamW(peak_lr=3e-3, b2=0.99, decay=0.1, clip=1.0, schedule=Cosine(warmup=50, end=0.1)),
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
