"""Rows of the checklist that only a training on real images proves."""

import jax
import pytest

from jaxdl import data
from jaxdl.core import Experiment
from jaxdl.core.records import read_records
from jaxdl.data import MNIST, FashionMNIST
from jaxdl.models.vit import ViT
from jaxdl.models.zoo import create
from jaxdl.optim import AdamW, Constant, Cosine
from jaxdl.tasks import Classification
from jaxdl.train import Log, build, fit

pytestmark = pytest.mark.slow
ONE = jax.devices()[:1]
EPOCH = 55_000 // 128


@pytest.fixture(autouse=True)
def folder(monkeypatch, fetched):
    """Where the images lie, fetched if they are not there."""
    monkeypatch.setenv("JAXDL_DATA", str(fetched("mnist", "fashion_mnist")))


def accuracy(model, epochs, rate, directory):
    """On the test split of MNIST."""
    exp = Experiment(
        model=model,
        task=Classification(),
        data=MNIST(batch=128, eval_batch=1000),
        optim=AdamW(peak_lr=rate, schedule=Cosine(warmup=100)),
        steps=epochs * EPOCH,
    )
    return fit(exp, directory, devices=ONE).result.metrics["test"]["accuracy"]


@pytest.mark.row("N-005", "C-009")
def test_the_mlp_reads_mnist_after_two_epochs(tmp_path):
    assert accuracy(create("mlp"), 2, 3e-3, tmp_path) >= 0.95


@pytest.mark.row("C-012")
@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_half_precision_has_the_loss_of_float32_after_an_epoch_of_mnist(precision, tmp_path):
    def loss(precision):
        exp = Experiment(
            model=create("mlp"),
            task=Classification(),
            data=MNIST(batch=128, eval_batch=1000),
            optim=AdamW(peak_lr=1e-3, schedule=Cosine(warmup=100)),
            steps=EPOCH,
            precision=precision,
            hooks=(Log(every=EPOCH // 3),),
        )
        fit(exp, tmp_path / precision, devices=ONE)
        records = read_records(tmp_path / precision)
        return [r.values["loss"] for r in records if r.split == "train"][-1]  # of 143 updates

    assert loss(precision) == pytest.approx(loss("f32"), rel=0.02)


@pytest.mark.row("N-008")
def test_lenet_reads_mnist_after_three_epochs(tmp_path):
    assert accuracy(create("lenet5"), 3, 3e-3, tmp_path) >= 0.98


@pytest.mark.row("N-036")
def test_a_small_vit_reads_mnist_in_patches_of_four(tmp_path):
    model = ViT(patch=4, width=64, depth=4, heads=4, classes=10)
    assert accuracy(model, 3, 2e-3, tmp_path) >= 0.96


@pytest.mark.row("N-019")
def test_resnet152_learns_32_images_by_heart_and_its_plain_twin_is_reported():
    images = FashionMNIST(batch=32, train_split="train[:32]", valid_split="", test_split="")
    found = {}
    for skip in (True, False):
        exp = Experiment(
            model=create("resnet152", classes=10, skip=skip),
            task=Classification(),
            data=images,
            optim=AdamW(schedule=Constant()),
            steps=30,
        )
        program = build(exp, ONE)
        state = program.init()
        get = data.batches(
            images.train(),
            batch=32,
            seed=0,
            transform=images.transform("train"),
            mesh=program.mesh,
        )
        losses = []
        while not losses or (losses[-1] > 0.05 and len(losses) < exp.steps):
            state, metrics = program.step(state, get(len(losses)))
            losses.append(float(metrics["loss"].compute()))
        found[skip] = losses
    print(f"with skips {found[True]}\nwithout {found[False]}")
    assert found[True][-1] < 0.1
