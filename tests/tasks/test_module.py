import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.core import InputError
from jaxdl.tasks import module

KEY, X = jax.random.key(0), jnp.arange(6.0).reshape(3, 2)


class Sowing(nn.Module):
    """The identity, and two layers' losses: a value per row, or one for all."""

    per_row: bool = True

    @nn.compact
    def __call__(self, x, *, train=False):
        for weight in (1.0, 10.0):
            values = weight * x.sum(1)
            self.sow("losses", "large", values if self.per_row else values.mean())
        return x


def test_losses_of_one_name_are_those_of_its_layers():
    _, state, losses = module.train_with_losses(Sowing(), {}, {}, KEY, X)
    np.testing.assert_array_equal(losses["large"], [[1, 5, 9], [10, 50, 90]])
    assert not state


def test_a_task_that_would_leave_losses_out_says_so():
    with pytest.raises(InputError, match=r"Sowing has losses of its own \(large\)"):
        module.train(Sowing(), {}, {}, KEY, X)


def test_a_loss_that_is_not_by_row_is_refused():
    with pytest.raises(InputError, match=r"'large/0' has shape \[\]; sow a value per row, \[3\]"):
        module.train_with_losses(Sowing(per_row=False), {}, {}, KEY, X)
