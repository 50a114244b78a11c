"""Does Lion beat AdamW, at the rate and decay that its paper would give it?

Data:   `jaxdl data get fashion_mnist`: 70,000 images of clothes.
Source: Chen et al. 2023, arXiv:2302.06675, section 5: a rate 3 to 10 times smaller than AdamW's,
        a decay so many times larger.
Run:    jaxdl ablate experiments/ablations/lion.py
Expect: 5 seeds (reports/lion.html; 9 to 20 s of training a run on 2 busy CPU cores): test
        accuracy 87.14 ± 0.17 % for AdamW; `lion` (a tenth of the rate) worse by 1.31 ± 0.32
        points; `lion_third` (+0.17 ± 0.28) and `lion_same_rate` (-0.22 ± 0.35) no different as
        far as 5 seeds can tell.
"""

from jaxdl.core import Experiment
from jaxdl.data import FashionMNIST, Scale
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW, Cosine, Lion
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, Save

SCHEDULE = Cosine(warmup=50)


def base() -> Experiment:
    """Two hidden layers of 256, 1,000 updates of AdamW."""
    return Experiment(
        model=MLP(widths=(256, 256), classes=10),
        task=Classification(),
        data=FashionMNIST(batch=128, eval_batch=1000, train_transform=(Scale(0, 255),)),
        optim=AdamW(peak_lr=2e-3, decay=0.05, schedule=SCHEDULE),
        steps=1000,
        hooks=(Log(every=50), Evaluate(every=500), Save(every=1000)),
    )


ABLATIONS = {
    "lion": {"optim": Lion(peak_lr=2e-4, decay=0.5, schedule=SCHEDULE)},
    "lion_third": {"optim": Lion(peak_lr=6e-4, decay=0.15, schedule=SCHEDULE)},
    "lion_same_rate": {"optim": Lion(peak_lr=2e-3, decay=0.05, schedule=SCHEDULE)},
}
