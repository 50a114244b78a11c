from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core import Experiment, InputError
from jaxdl.data import Digits
from jaxdl.metrics import compute
from jaxdl.models.mlp import MLP
from jaxdl.optim import SGD, Constant
from jaxdl.parallel import unbox
from jaxdl.tasks import Classification
from jaxdl.tasks.mixup import mix, partners
from jaxdl.train import build, training_batches

R = np.random.default_rng(0)
KEY, ROWS = jax.random.key(0), 6
IMAGES = jnp.asarray(R.normal(size=(ROWS, 2, 2, 1)), jnp.float32)
LABELS = jnp.asarray(R.integers(0, 3, ROWS), jnp.int32)
MODEL = MLP(widths=(8,), classes=3)


def trained(task, batch, key=KEY):
    params, state = unbox(jax.jit(lambda: task.init(MODEL, KEY, batch))())
    (player,) = task.players(MODEL)

    def total(params):
        sums, (_, metrics) = player.loss(params, state, batch, key)
        return sums.total, (sums.weight, metrics)

    (total, (weight, metrics)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return params, float(total), float(weight), metrics, grads


@pytest.mark.row("D-033")
def test_the_shares_are_those_of_the_beta_distribution():
    draw = jax.jit(jax.vmap(lambda key: mix(IMAGES, None, key, 1.0)[1][0]))
    shares = np.asarray(draw(jax.random.split(KEY, 4000)))
    assert shares.mean() == pytest.approx(0.5, abs=3 * (1 / 12 / 4000) ** 0.5)
    assert shares.var() == pytest.approx(1 / 12, rel=0.05)


@pytest.mark.row("D-033")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_both_labels_by_their_shares(smoothing):
    task = Classification(smoothing, mixup=1.0)
    seen = {}

    def spied(images, mask, key, alpha):
        seen["mixed"], seen["share"] = mix(images, mask, key, alpha)
        return seen["mixed"], seen["share"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdl.tasks.classification.mix", spied)
        params, state = unbox(task.init(MODEL, KEY, {"image": IMAGES}))
        (player,) = task.players(MODEL)
        batch = {"image": IMAGES, "label": LABELS}
        sums, _ = player.loss(params, state, batch, KEY)
    share = float(seen["share"][0])
    assert 0.05 < share < 0.95
    before = np.roll(np.arange(ROWS), 1)
    mixed = share * IMAGES + (1 - share) * IMAGES[before]
    np.testing.assert_allclose(seen["mixed"], mixed, rtol=1e-6)
    log_p = np.asarray(jax.nn.log_softmax(MODEL.apply({"params": params}, mixed)), np.float64)
    rows = np.arange(ROWS)
    gold = share * log_p[rows, LABELS] + (1 - share) * log_p[rows, LABELS[before]]
    expected = -(1 - smoothing) * gold.sum() - smoothing * log_p.mean(-1).sum()
    assert float(sums.total) == pytest.approx(expected, rel=1e-5)
    assert float(sums.weight) == pytest.approx(ROWS)


@pytest.mark.row("D-033")
def test_a_share_of_one_is_the_plain_loss(monkeypatch):
    monkeypatch.setattr("jax.random.beta", lambda *_, **__: jnp.float32(1.0))
    batch = {"image": IMAGES, "label": LABELS}
    found = trained(Classification(0.1, mixup=0.3), batch)
    monkeypatch.undo()
    expected = trained(Classification(0.1), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_a_hidden_row_is_nobody_s_partner():
    mask = jnp.ones(ROWS).at[2].set(0)
    mixed, share = mix(IMAGES.at[2].set(jnp.nan), mask, KEY, 1.0)
    assert share[3] == 1 and (share[jnp.array([0, 1, 4, 5])] < 1).all()
    np.testing.assert_array_equal(mixed[3], IMAGES[3])
    found, expected = (
        trained(
            Classification(0.1, mixup=1.0),
            {"image": IMAGES.at[2].set(hidden), "label": LABELS, "mask": mask},
        )
        for hidden in (7.0, -5.0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert found[2] == pytest.approx(ROWS - 1) and found[3]["accuracy"].weight == ROWS - 1


def test_accuracy_is_by_the_label_of_the_larger_share(monkeypatch):
    batch = {"image": IMAGES, "label": LABELS}
    for share, labels in ((0.9, LABELS), (0.1, partners(LABELS))):
        monkeypatch.setattr("jax.random.beta", lambda *_, s=share, **__: jnp.float32(s))
        params, _, _, metrics, _ = trained(Classification(mixup=1.0), batch)
        mixed, _ = mix(IMAGES, None, KEY, 1.0)
        chosen = MODEL.apply({"params": params}, mixed).argmax(-1)
        assert metrics["accuracy"].correct == (chosen == labels).sum()


def test_evaluation_mixes_nothing():
    batch = {"image": IMAGES, "label": LABELS}
    params, state = unbox(Classification().init(MODEL, KEY, batch))
    found, expected = (
        compute(task.evaluate(MODEL, params, state, batch, KEY))
        for task in (Classification(mixup=1.0), Classification())
    )
    assert found == expected


CHANGES = [
    {},
    pytest.param({"accumulate": 2}, marks=pytest.mark.slow),
    pytest.param({"deterministic_shards": 8}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_numbers_do_not_depend_on_the_devices(change):
    exp = Experiment(
        model=MLP(widths=(16,), classes=10),
        task=Classification(0.1, mixup=0.4),
        data=Digits(batch=64),
        optim=SGD(peak_lr=0.1, schedule=Constant()),
        steps=3,
    )
    exp = replace(exp, **change)

    def losses(devices):
        program = build(exp, devices)
        state, get, found = program.init(), training_batches(program), []
        for n in range(3):
            state, metrics = program.step(state, get(n))
            program.settle(state)
            found.append(float(compute(metrics)["loss"]))
        return found

    one, eight = losses(jax.devices()[:1]), losses(jax.devices())
    assert one == pytest.approx(eight, rel=1e-6)
    assert "deterministic_shards" not in change or one == eight


@pytest.mark.parametrize("alpha", [-0.1, float("inf")])
def test_what_no_beta_distribution_has_is_refused(alpha):
    with pytest.raises(InputError, match=f"mixup={alpha} must be at least 0"):
        Classification(mixup=alpha)
