"""How should a small GPT know where a byte stands: learned, sinusoidal, rotary, or not at all?

Data:   `jaxdl data get shakespeare`: 42 plays and poems, 5.1 MB.
Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Su et al. 2021, arXiv:2104.09864;
        Kazemnejad et al. 2023, arXiv:2305.19466, for none.
Run:    jaxdl ablate experiments/ablations/positions.py
Expect: not yet run with several seeds; rotary should lead and none come last, by less than 0.1 nats
        at windows so short. A run should take about 30 s of CPU time, start to end.
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
