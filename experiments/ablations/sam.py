"""Does sharpness-aware minimisation beat AdamW, at equal updates and at equal time?

Data:   `jaxdl data get fashion_mnist`: 70,000 images of clothes.
Source: Foret et al. 2020, arXiv:2010.01412: SAM generalises better, at two gradients an update.
Run:    jaxdl ablate experiments/ablations/sam.py
Expect: not yet run with several seeds. SAM needs two gradients an update, so that `same_time` is
        its fair rival. A run should take 10 to 25 s of CPU time.
"""

from jaxdl.core import Experiment
from jaxdl.data import FashionMNIST, Scale
from jaxdl.models.mlp import MLP
from jaxdl.optim import SAM, AdamW, Cosine
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """Two hidden layers of 256, 600 updates of AdamW."""
    return Experiment(
        model=MLP(widths=(256, 256), classes=10),
        task=Classification(),
        data=FashionMNIST(batch=128, eval_batch=1000, train_transform=(Scale(0, 255),)),
        optim=AdamW(peak_lr=2e-3, decay=0.05, schedule=Cosine(warmup=30)),
        steps=600,
        hooks=(Log(every=50), Evaluate(every=300), Save(every=600)),
    )


ABLATIONS = {
    "sam": {"optim.sam": SAM(0.05)},
    "sam_wide": {"optim.sam": SAM(0.2)},
    "same_time": {"steps": 1200, "optim.schedule.warmup": 60},
}
