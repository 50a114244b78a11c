"""MNIST with LeNet-5 (1998), and how near an MLP and a small vision transformer come.

Data:   jaxdl data get mnist (70,000 handwritten digits)
Expect: test/accuracy 0.991 (valid 0.990; seed 0 only), 2 minutes on 2 CPU cores that had other
        work too. In a test: mlp and vit above 0.95 and 0.96 after two and three epochs.
Run:    jaxdl train experiments/vision/mnist.py
"""

from jaxdl.core import Experiment
from jaxdl.data import MNIST, Crop, Scale
from jaxdl.models.lenet import LeNet
from jaxdl.models.mlp import MLP
from jaxdl.models.vit import ViT
from jaxdl.optim import AdamW, Cosine
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """LeNet-5, 10 epochs of digits shifted by up to two pixels; mirrored ones are other digits."""
    return Experiment(
        model=LeNet(),
        task=Classification(),
        data=MNIST(batch=128, eval_batch=1000, train_transform=(Scale(0, 255), Crop(2))),
        optim=AdamW(peak_lr=3e-3, decay=0.01, schedule=Cosine(warmup=200)),
        steps=4300,
        hooks=(Log(every=50), Evaluate(every=430), Save(every=430)),
    )


ABLATIONS = {
    "no_shift": {"data.train_transform": (Scale(0, 255),)},
    "no_padding": {"model.pad": 0},
    "mlp": {"model": MLP(widths=(256, 128), classes=10), "steps": 860},
    "vit": {"model": ViT(patch=4, width=64, depth=4, heads=4, classes=10), "optim.peak_lr": 1e-3},
}
