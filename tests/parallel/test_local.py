"""Local SGD: devices go several steps on their own, then meet."""

from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from jaxdl.core import Experiment
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.data import MNIST
from jaxdl.models.mlp import MLP
from jaxdl.optim import SGD, Constant
from jaxdl.tasks import Classification
from jaxdl.train import build, fit

laws = load_file(__file__.replace("test_local", "laws"))
PLAIN = SGD(peak_lr=0.1, momentum=0.0, schedule=Constant())
BASE = replace(
    laws.experiment(MLP(widths=(16,), classes=10), "image"), optim=PLAIN, collectives="explicit"
)


@pytest.mark.row("C-020")
def test_one_local_step_is_data_parallelism():
    local, _, _ = laws.updated(replace(BASE, local_rate=0.1), 5)
    synchronous, _, _ = laws.updated(BASE, 5)
    for a, b in zip(*map(jax.tree.leaves, (local, synchronous)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@dataclass(frozen=True)
class InOrder(laws.Random):
    """The examples from `first` on."""

    first: int = 0

    def plan(self, split):
        return (lambda seed, e: (e + self.first) % 96) if split == "train" else None


def test_an_update_of_sgd_leads_to_the_average_of_where_the_devices_ended():
    exp = replace(BASE, local_rate=0.1, accumulate=4)
    together, _, _ = laws.updated(replace(exp, data=InOrder(batch=64, kind="image")), 1)
    parts = [InOrder(batch=8, kind="image", first=8 * device) for device in range(8)]
    ends = [laws.updated(replace(exp, data=part), 1, laws.ONE)[0] for part in parts]
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *ends)
    for a, b in zip(*map(jax.tree.leaves, (together, mean)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_it_needs_collectives_of_its_own():
    with pytest.raises(InputError, match="collectives='explicit'"):
        replace(BASE, collectives="automatic", local_rate=0.1)


@pytest.mark.slow
@pytest.mark.row("C-020")
def test_four_local_steps_read_mnist(tmp_path, monkeypatch, fetched):
    monkeypatch.setenv("JAXDL_DATA", str(fetched("mnist")))
    exp = Experiment(
        model=MLP(widths=(128,), classes=10),
        task=Classification(),
        data=MNIST(batch=256, eval_batch=1000),
        optim=PLAIN,
        accumulate=4,
        collectives="explicit",
        local_rate=0.1,
        steps=3 * 55_000 // 256,
    )
    assert fit(exp, tmp_path).result.metrics["test"]["accuracy"] >= 0.94


@pytest.mark.parametrize(
    ("edits", "says"),
    [({"mesh": {"pipe": 2, "data": 4}}, "mesh.pipe=1"), ({"precision": "f16"}, "'bf16' or 'f32'")],
)
def test_it_refuses_what_it_cannot_do(edits, says):
    with pytest.raises(InputError, match=says):
        build(replace(BASE, local_rate=0.1, **edits))
