"""Which learning-rate schedule, when the peak rate and the number of updates are given?

Data:   `jaxdl data get fashion_mnist`: 70,000 images of clothes.
Run:    jaxdl ablate experiments/ablations/schedules.py
Expect: 5 seeds (reports/schedules.html; 8 to 12 s of training a run on 2 busy CPU cores): test
        accuracy 87.54 ± 0.11 % for the cosine; linear better by 0.16 ± 0.15 points; steps worse
        by 0.52 ± 0.18, inverse_sqrt by 1.18 ± 0.54, constant by 2.28 ± 0.86.
"""

from jaxdl.core import Experiment
from jaxdl.data import FashionMNIST, Scale
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW, Constant, Cosine, InverseSqrt, Linear, Steps
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """Two hidden layers of 256, 1,000 updates along half a cosine."""
    return Experiment(
        model=MLP(widths=(256, 256), classes=10),
        task=Classification(),
        data=FashionMNIST(batch=128, eval_batch=1000, train_transform=(Scale(0, 255),)),
        optim=AdamW(peak_lr=3e-3, decay=0.05, schedule=Cosine(warmup=50)),
        steps=1000,
        hooks=(Log(every=50), Evaluate(every=500), Save(every=1000)),
    )


ABLATIONS = {
    "constant": {"optim.schedule": Constant(warmup=50)},
    "linear": {"optim.schedule": Linear(warmup=50)},
    "steps": {"optim.schedule": Steps(warmup=50)},
    "inverse_sqrt": {"optim.schedule": InverseSqrt(warmup=50)},
}
