"""A model of a paper, step by step as experiments/reproduce.md has it: the template is LeNet-5."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from sklearn.datasets import load_digits

from jaxdl.models.zoo import create


def by_torch(params, x, labels):
    """Logits and gradient of the same network by torch, from a batch and our weights."""
    torch = pytest.importorskip("torch")
    layers = torch.nn.functional
    params = jax.tree.map(lambda leaf: torch.tensor(np.array(leaf), requires_grad=True), params)
    y = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)
    y = layers.pad(y, (2, 2, 2, 2))
    for name in ("conv_1", "conv_2"):
        kernel, bias = params[name]["kernel"].permute(3, 2, 0, 1), params[name]["bias"]
        y = layers.avg_pool2d(torch.tanh(layers.conv2d(y, kernel, bias)), 2)
    y = y.permute(0, 2, 3, 1).flatten(1)  # our rows end in channels
    for name in ("hidden_1", "hidden_2"):
        y = torch.tanh(y @ params[name]["kernel"] + params[name]["bias"])
    logits = y @ params["head"]["kernel"] + params["head"]["bias"]
    layers.cross_entropy(logits, torch.tensor(np.array(labels)).long()).backward()
    return logits.detach().numpy(), jax.tree.map(lambda leaf: leaf.grad.numpy(), params)


def digits():
    """32 real digits, enlarged to the paper's size, and their labels."""
    images, labels = load_digits(return_X_y=True)
    x = images[:32].reshape(-1, 8, 8, 1).astype(np.float32) / 16
    return jax.image.resize(x, (32, 28, 28, 1), "linear"), jnp.asarray(labels[:32])


@dataclass(frozen=True)
class Paper:
    """What the paper, and its reference, say."""

    model: nn.Module
    batch: Callable
    parameters: int
    classes: int
    reference: Callable


# LeCun et al. 1998, section II; 61,706 is the count of the network as it is taught.
PAPER = Paper(create("lenet5"), digits, parameters=61_706, classes=10, reference=by_torch)


@pytest.fixture(scope="module")
def started():
    x, labels = PAPER.batch()
    return nn.unbox(jax.jit(PAPER.model.init)(jax.random.key(0), x)["params"]), x, labels


def loss_of(params, x, labels):
    logits = PAPER.model.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@pytest.mark.row("R-029")
def test_shape_and_count_are_those_of_the_paper(started):
    params, x, _ = started
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PAPER.parameters
    logits = jax.eval_shape(PAPER.model.apply, {"params": params}, x)
    assert logits.shape == (len(x), PAPER.classes)


@pytest.mark.row("R-029")
def test_the_first_loss_is_that_of_equal_chances(started):
    assert abs(loss_of(*started) - np.log(PAPER.classes)) < 0.3


@pytest.mark.row("R-029")
def test_outputs_and_gradients_are_those_of_the_reference(started):
    params, x, _ = started
    ours = PAPER.model.apply({"params": params}, x), jax.grad(loss_of)(*started)
    for a, b in zip(*map(jax.tree.leaves, (ours, PAPER.reference(*started))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.row("R-029")
def test_one_batch_is_learned(started):
    params, x, labels = started
    adam = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(loss_of)(params, x, labels)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    state = adam.init(params)
    for _ in range(150):
        params, state, loss = step(params, state)
    assert loss < 0.05
