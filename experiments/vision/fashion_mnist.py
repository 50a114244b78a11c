"""Fashion-MNIST with a small residual network: above 0.92 in half an hour of CPU time?

Data:   jaxdl data get fashion_mnist (70,000 images of clothes, Xiao et al. 2017, arXiv:1708.07747)
Expect: test/accuracy 0.923 (valid 0.936; seed 0 only), 22 minutes of CPU time on a busy 2-core
        CPU, start to end; an update takes 61 ms there when nothing else runs.
Run:    jaxdl train experiments/vision/fashion_mnist.py
"""

from jaxdl.core import Experiment
from jaxdl.data import Crop, FashionMNIST, Flip, Scale
from jaxdl.models.resnet import ResNet
from jaxdl.optim import AdamW, Cosine
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """A ResNet of three stages, 15 epochs of cropped and mirrored images."""
    return Experiment(
        model=ResNet(stages=(1, 1, 1), width=16, classes=10),
        task=Classification(),
        data=FashionMNIST(
            batch=128, eval_batch=1000, train_transform=(Scale(0, 255), Crop(2), Flip())
        ),
        optim=AdamW(peak_lr=4e-3, decay=0.05, schedule=Cosine(warmup=400)),
        steps=6450,
        hooks=(Log(every=50), Evaluate(every=430), Save(every=430)),
    )


ABLATIONS = {
    "no_flip": {"data.train_transform": (Scale(0, 255), Crop(2))},
    "no_augmentation": {"data.train_transform": (Scale(0, 255),)},
    "no_decay": {"optim.decay": 0.0},
    "smoothing": {"task.smoothing": 0.1},
    "short": {"steps": 2150, "optim.schedule.warmup": 130},
}
