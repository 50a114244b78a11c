import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from jaxdl.core import InputError
from jaxdl.metrics import compute, merge
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet
from jaxdl.parallel import unbox
from jaxdl.tasks import Classification

R = np.random.default_rng(0)
KEY = jax.random.key(0)
SIZE, BATCH = 21, 8
IMAGES = R.normal(size=(SIZE, 4, 4, 1)).astype(np.float32)
LABELS = R.integers(0, 3, SIZE).astype(np.int32)
MODELS = {
    "dropout": MLP(widths=(16,), classes=3, dropout=0.5),
    "batch_norm": ResNet(stages=(1,), width=4, classes=3),
}


def batches(padding=np.nan):
    for start in range(0, SIZE, BATCH):
        rows = slice(start, start + BATCH)
        missing = BATCH - len(LABELS[rows])
        image = np.pad(IMAGES[rows], [(0, missing)] + [(0, 0)] * 3, constant_values=padding)
        yield {
            "image": jnp.array(image),
            "label": jnp.array(np.pad(LABELS[rows], (0, missing))),
            "mask": jnp.array(np.arange(BATCH) < BATCH - missing, jnp.float32),
        }


FIRST = next(batches())


@pytest.fixture(scope="module", params=MODELS)
def setting(request):
    """Model, parameters and a state as training leaves it."""
    model, task = MODELS[request.param], Classification(smoothing=0.2)
    params, state = unbox(jax.jit(lambda: task.init(model, KEY, FIRST))())
    state = jax.tree.map(lambda x: x + np.float32(0.3), state)
    return task, model, params, state


def train_loss(task, model, params, state, key, batch=FIRST):
    (player,) = task.players(model)
    return jax.jit(player.loss)(params, state, batch, key)


@pytest.mark.row("C-008")
def test_accuracy_on_a_padded_last_batch_is_scikit_learn_s_on_the_unpadded_set(setting):
    task, model, params, state = setting
    evaluate = jax.jit(lambda batch: task.evaluate(model, params, state, batch, KEY))
    found = compute(merge(map(evaluate, batches())))
    p = np.exp(np.asarray(jax.jit(model.apply)({"params": params, **state}, IMAGES), np.float64))
    assert found["accuracy"] == accuracy_score(LABELS, p.argmax(-1))
    # Label smoothing is for training.
    expected = log_loss(LABELS, p / p.sum(-1, keepdims=True))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.row("C-008")
def test_evaluation_is_deterministic_and_leaves_no_trace(setting):
    task, model, params, state = setting
    evaluate = jax.jit(lambda batch, key: task.evaluate(model, params, state, batch, key))
    first, second = evaluate(FIRST, KEY), evaluate(FIRST, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    if "batch_stats" in state:
        other = jax.tree.map(lambda x: 2 * x, state)
        changed = jax.jit(lambda: task.evaluate(model, params, other, FIRST, KEY))()
        assert changed["loss"].total != first["loss"].total


def test_training_draws_dropout_and_updates_batch_statistics(setting):
    task, model, params, state = setting
    sums, (after, metrics) = train_loss(task, model, params, state, KEY)
    again, _ = train_loss(task, model, params, state, KEY)
    other, _ = train_loss(task, model, params, state, jax.random.key(1))
    assert sums.total == again.total
    if state:
        assert jax.tree.structure(after) == jax.tree.structure(state)
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), after, state)
        assert all(jax.tree.leaves(changed))
    else:
        assert sums.total != other.total
    assert metrics["accuracy"].weight == sums.weight == BATCH


def test_smoothing_is_in_the_training_loss():
    model = MLP(widths=(16,), classes=3)
    params, state = unbox(jax.jit(lambda: Classification().init(model, KEY, FIRST))())
    p = np.exp(np.asarray(jax.jit(model.apply)({"params": params}, FIRST["image"]), np.float64))
    log_p = np.log(p / p.sum(-1, keepdims=True))
    gold = log_p[np.arange(BATCH), FIRST["label"]]
    for smoothing in (0.0, 0.2):
        sums, _ = train_loss(Classification(smoothing), model, params, state, KEY)
        expected = -(1 - smoothing) * gold.sum() - smoothing * log_p.mean(-1).sum()
        assert sums.total == pytest.approx(expected, rel=1e-5)


def test_masked_rows_give_neither_loss_nor_gradient():
    task, model = Classification(0.1), MLP(widths=(16,), classes=3)
    *_, last = batches(padding=7)
    (player,) = task.players(model)
    rows = {name: x[: SIZE % BATCH] for name, x in last.items()}

    @jax.jit
    def both():
        params, state = unbox(task.init(model, KEY, last))
        slope = jax.value_and_grad(lambda p, batch: player.loss(p, state, batch, KEY)[0].total)
        return slope(params, last), slope(params, rows)

    found, expected = both()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_predictions_are_probabilities_of_float32(setting):
    task, model, params, state = setting
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    found = jax.jit(lambda: task.predict(model, half, state, FIRST, KEY))()
    assert found["probability"].dtype == jnp.float32
    np.testing.assert_allclose(found["probability"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found["probability"].argmax(-1), found["label"])


def test_a_model_with_too_few_outputs_is_refused():
    outputs = {"probability": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
    with pytest.raises(InputError, match=r"3 outputs, .* 10 classes; set model\.classes=10"):
        Classification().check(None, outputs, {"label": 10})
    Classification().check(None, outputs, {"label": 3})
    Classification().check(None, outputs, {})


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_that_leaves_no_label_is_refused(smoothing):
    with pytest.raises(InputError, match=f"smoothing={smoothing} must lie in"):
        Classification(smoothing)
