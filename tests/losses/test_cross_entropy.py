from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.core.errors import InputError
from jaxdl.losses import binary_cross_entropy, cross_entropy, sums

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)).astype(np.float32) * 3
LABELS = RNG.integers(0, 5, 6).astype(np.int32)
TARGETS = RNG.random(6).astype(np.float32)
MASK = np.array([1, 0, 1, 1, 0, 1], np.float32)
WILD = [np.inf, -np.inf, np.nan]


@partial(jax.jit, static_argnames=("smoothing", "z"))
def softmax(x, y, mask=None, smoothing=0.0, z=0.0):
    """The sums, and the gradient of their total."""

    def total(x):
        found = cross_entropy(x, y, mask=mask, smoothing=smoothing, z=z)
        return found.total, found

    grad, found = jax.grad(total, has_aux=True)(x)
    return found, grad


@jax.jit
def sigmoid(x, y, mask=None):
    """The sums, and the gradient of their total."""

    def total(x):
        found = binary_cross_entropy(x, y, mask=mask)
        return found.total, found

    grad, found = jax.grad(total, has_aux=True)(x)
    return found, grad


def oracle(logits, labels, smoothing=0.0, z=0.0):
    """Losses and their gradients in float64, from the probabilities."""
    p = np.exp(logits.astype(np.float64))
    log_z = np.log(p.sum(-1, keepdims=True))
    share = p / p.sum(-1, keepdims=True)
    target = np.eye(logits.shape[-1])[labels] * (1 - smoothing) + smoothing / logits.shape[-1]
    loss = -(target * np.log(share)).sum(-1) + z * log_z[:, 0] ** 2
    return loss, share - target + 2 * z * log_z * share


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


@pytest.mark.parametrize(("smoothing", "z"), [(0, 0), (0.1, 0), (0, 1e-2), (0.3, 1e-2)])
def test_values_and_gradients_are_those_of_the_formula(smoothing, z):
    found, grad = softmax(LOGITS, LABELS, smoothing=smoothing, z=z)
    loss, slope = oracle(LOGITS, LABELS, smoothing, z)
    np.testing.assert_allclose(found.total, loss.sum(), rtol=1e-6)
    np.testing.assert_allclose(grad, slope, atol=1e-6)
    assert found.weight == 6
    assert found.total.dtype == found.weight.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_any_leading_shape_agrees_with_optax(shape):
    found, _ = softmax(LOGITS.reshape(*shape, 5), LABELS.reshape(shape), MASK.reshape(shape))
    expected = jax.jit(optax.softmax_cross_entropy_with_integer_labels)(LOGITS, LABELS)
    np.testing.assert_allclose(found.total, (expected * MASK).sum(), rtol=1e-6)
    assert found.weight == 4


def test_a_fractional_mask_weighs():
    weights = np.array([0.5, 0, 2, 1, 0, 0.25], np.float32)
    found, grad = softmax(LOGITS, LABELS, weights)
    loss, slope = oracle(LOGITS, LABELS)
    np.testing.assert_allclose(found.total, loss @ weights, rtol=1e-6)
    np.testing.assert_allclose(grad, slope * weights[:, None], atol=1e-6)
    assert found.weight == 3.75


@pytest.mark.parametrize("wild", WILD, ids=str)
@pytest.mark.parametrize("label", [0, -1, 5])
def test_masked_rows_change_neither_loss_nor_gradient(wild, label):
    padded, labels, kept = LOGITS.copy(), LABELS.copy(), MASK > 0
    padded[~kept, 1:3], labels[~kept] = wild, label
    found, grad = softmax(padded, labels, MASK, smoothing=0.1, z=1e-2)
    loss, slope = oracle(LOGITS[kept], LABELS[kept], 0.1, 1e-2)
    np.testing.assert_allclose(found.total, loss.sum(), rtol=1e-6)
    assert found.weight == 4
    np.testing.assert_allclose(grad[kept], slope, atol=1e-6)
    np.testing.assert_array_equal(grad[~kept], 0)


@pytest.mark.parametrize("wild", [0, *WILD], ids=str)
def test_binary_values_and_gradients_are_those_of_the_formula_even_beside_masked_ones(wild):
    logits = np.where(MASK > 0, LOGITS[:, 0], np.float32(wild))
    found, grad = sigmoid(logits, TARGETS, MASK)
    share = 1 / (1 + np.exp(-LOGITS[:, 0].astype(np.float64)))
    losses = -TARGETS * np.log(share) - (1 - TARGETS) * np.log(1 - share)
    np.testing.assert_allclose(found.total, (losses * MASK).sum(), rtol=1e-6)
    np.testing.assert_allclose(grad, (share - TARGETS) * MASK, atol=1e-6)
    assert found.weight == 4


@pytest.mark.parametrize("target", [0.0, 1])
def test_one_number_is_the_target_of_all(target):
    found = binary_cross_entropy(jnp.array(LOGITS[:, 0]), target)
    expected = np.log1p(np.exp((1 - 2 * target) * LOGITS[:, 0])).sum()
    np.testing.assert_allclose(found.total, expected, rtol=1e-6)
    assert found.weight == 6


@pytest.mark.row("X-027")
def test_a_logit_of_800_stays_finite():
    logits = np.array([[800.0, 0.0, -800.0]], np.float32)
    for label, expected in enumerate([0.0, 800.0, 1600.0]):
        found, grad = softmax(logits, np.array([label]))
        assert found.total == expected
        np.testing.assert_array_equal(grad[0], np.eye(3)[0] - np.eye(3)[label])
    found, grad = sigmoid(logits[0], np.zeros(3, np.float32))
    np.testing.assert_allclose(found.total, 800 + np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(grad, [1, 0.5, 0])


@pytest.mark.row("C-012")
@pytest.mark.parametrize("loss", [softmax, sigmoid])
def test_half_precision_logits_are_computed_in_f32(loss):
    half, labels = jnp.array(LOGITS, jnp.bfloat16), LABELS if loss is softmax else LOGITS
    found, _ = loss(half, labels)
    exact, _ = loss(half.astype(jnp.float32), labels)
    assert found.total == exact.total
    # Both forward and backward; only the gradient that leaves is in half precision.
    kinds = {"exp", "log", "log1p", "logistic", "reduce_sum", "reduce_max", "div", "sub", "add"}
    jaxpr = jax.make_jaxpr(loss)(half, labels).jaxpr
    seen = [eqn for eqn in equations(jaxpr) if eqn.primitive.name in kinds]
    assert {"exp", "reduce_sum"} <= {eqn.primitive.name for eqn in seen}
    dtypes = {x.aval.dtype for eqn in seen for x in eqn.invars}
    floats = {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}
    assert floats == {jnp.dtype("float32")}


@pytest.mark.row("C-041")
def test_a_column_of_labels_is_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"labels has shape \(6, 1\).* logits \(6, 5\)"):
        cross_entropy(LOGITS, LABELS[:, None])
    with pytest.raises(InputError, match=r"targets has shape \(6,\).* logits \(6, 1\)"):
        binary_cross_entropy(LOGITS[:, :1], TARGETS)


@pytest.mark.parametrize("shape", [(6, 1), (5,), (1,), (6, 5)])
def test_a_mask_of_another_shape_is_refused(shape):
    mask = np.ones(shape, np.float32)
    for refused in (
        partial(cross_entropy, LOGITS, LABELS, mask=mask),
        partial(binary_cross_entropy, TARGETS, 1.0, mask=mask),
        partial(sums, TARGETS, mask),
    ):
        with pytest.raises(InputError, match="mask has shape"):
            refused()


def test_labels_that_are_no_indices_are_refused():
    with pytest.raises(InputError, match="labels are float32"):
        cross_entropy(LOGITS, TARGETS)


def test_sums_of_parts_add_to_the_whole():
    def loss(rows):
        return softmax(LOGITS[rows], LABELS[rows], MASK[rows])[0]

    whole, both = loss(slice(None)), loss(slice(0, 3)) + loss(slice(3, None))
    np.testing.assert_allclose(both.total, whole.total, rtol=1e-6)
    assert both.weight == whole.weight == 4
