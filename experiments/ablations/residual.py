"""Do residual connections help, and does it depend on depth?

Data:   scikit-learn's 8x8 digits; 1,197 to train, 240 to validate, 360 to test.
Source: He et al. 2015, arXiv:1512.03385, figure 1 and table 2: a plain network gets worse with
        depth, in training too, and a residual one does not.
Run:    jaxdl ablate experiments/ablations/residual.py
Expect: 5 seeds (reports/residual.html; 11 to 23 s of training a run on 2 busy CPU cores): test
        accuracy 97.6 ± 1.1 %; `plain`, as deep, worse by 26.2 ± 3.7 points and 0.773 ± 0.045
        nats. At 14 layers residual connections do far less: against `shallow_plain` (jaxdl
        report runs/residual --base shallow_plain) `shallow` gains 1.1 ± 1.2 points, which 5
        seeds do not tell from nothing, and 0.037 ± 0.025 nats, which they do. So they make
        depth trainable; that depth gains anything on digits is not seen (`shallow` -0.1 ± 1.3
        points to the base).
"""

from jaxdl.core import Experiment
from jaxdl.data import Crop, Digits, Scale
from jaxdl.models.resnet import ResNet
from jaxdl.optim import SGD, Cosine
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, Save

SHALLOW, DEEP = (3, 3), (8, 8)  # 14 and 34 layers: two a block, the stem and the head


def base() -> Experiment:
    """A residual network of 34 layers, 8 and 16 wide."""
    return Experiment(
        model=ResNet(stages=DEEP, width=8, classes=10),
        task=Classification(),
        data=Digits(batch=64, eval_batch=120, train_transform=(Scale(0, 16), Crop(1))),
        optim=SGD(peak_lr=0.05, decay=1e-3, schedule=Cosine(warmup=20)),
        steps=300,
        hooks=(Log(every=20), Evaluate(every=100), Save(every=300)),
    )


ABLATIONS = {
    "plain": {"model.skip": False},
    "shallow": {"model.stages": SHALLOW},
    "shallow_plain": {"model.stages": SHALLOW, "model.skip": False},
}
