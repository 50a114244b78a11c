"""How should a small GPT know where a byte stands: learned, sinusoidal, rotary, or not at all?

Data:   `jaxdl data get shakespeare`: 42 plays and poems, 5.1 MB.
Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Su et al. 2021, arXiv:2104.09864;
        Kazemnejad et al. 2023, arXiv:2305.19466, for none.
Run:    jaxdl ablate experiments/ablations/positions.py
Expect: 5 seeds (reports/positions.html; 28 to 41 s of training a run on 2 busy CPU cores): test
        loss 2.227 ± 0.032 nats a byte for learned positions; `rotary` better by 0.157 ± 0.049,
        `none` worse by 0.251 ± 0.025, `sinusoidal` by 0.233 ± 0.026, so that it does hardly
        better than none. These are 600 updates, early in training; 0.1 nats was the guess
        before.
"""

from jaxdl.core import Experiment
from jaxdl.data import Text
from jaxdl.models.gpt import GPT
from jaxdl.nn import Rotary, sinusoidal
from jaxdl.optim import AdamW, Cosine
from jaxdl.tasks import LanguageModel
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """A GPT of 2 blocks of width 64 with learned positions, 600 updates of 16 windows of 64."""
    return Experiment(
        model=GPT(vocab=256, width=64, depth=2, heads=2, seq=64),
        task=LanguageModel(),
        data=Text(files=("shakespeare/*.txt",), seq=64, batch=16, eval_batch=128),
        optim=AdamW(peak_lr=4e-3, b2=0.99, decay=0.1, clip=1.0, schedule=Cosine(warmup=50)),
        steps=600,
        hooks=(Log(every=20), Evaluate(every=300), Save(every=600)),
    )


ABLATIONS = {
    "sinusoidal": {"model.positions": sinusoidal},
    "rotary": {"model.positions": None, "model.rotary": Rotary()},
    "none": {"model.positions": None},
}
