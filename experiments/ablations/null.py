"""A study of nothing: do variants that cannot matter come out as no difference?

Data:   scikit-learn's 8x8 digits; 1,197 to train, 240 to validate, 360 to test.
What:   `same` sets an option that this run does not use: another run directory, and with the same
        seed the same numbers to the last bit. `summed` adds its gradients in two halves, which
        rounds otherwise and so in time leads elsewhere. `redrawn` has a module of another name
        around the network, so that the same distribution gives it other initial weights: its
        differences to the base are luck alone, as large as those between seeds.
Run:    jaxdl ablate experiments/ablations/null.py
Expect: 5 seeds (reports/null.html; 2 to 6 s of training a run on 2 busy CPU cores): no
        difference in any variant; the same accuracies as the base in all seeds for `same` and
        `summed`, +1.0 ± 1.7 points of test accuracy for `redrawn`.
"""

from flax import linen as nn

from jaxdl.core import Experiment
from jaxdl.data import Digits
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW, Cosine
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log, Save


class Wrapped(nn.Module):
    """An MLP in a box; the paths of its parameters, and so their first values, are other ones."""

    widths: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        """Logits."""
        return MLP(self.widths, self.classes, name="boxed")(x, train=train)


WIDTHS = (64, 64)


def base() -> Experiment:
    """Two hidden layers of 64, 300 updates of 64 digits."""
    return Experiment(
        model=MLP(widths=WIDTHS, classes=10),
        task=Classification(),
        data=Digits(batch=64, eval_batch=120),
        optim=AdamW(peak_lr=3e-3, decay=0.05, schedule=Cosine(warmup=20)),
        steps=300,
        hooks=(Log(every=20), Evaluate(every=100), Save(every=300)),
    )


ABLATIONS = {
    "same": {"pipeline": "gpipe"},
    "summed": {"accumulate": 2},
    "redrawn": {"model": Wrapped(widths=WIDTHS, classes=10)},
}
