"""Metric states: sums that add exactly across micro-batches, devices, batches and hosts.

Within one batch a state is float32 or int32 on the device; across batches it is merged on the host
in 64 bits (`jaxdl.metrics.host`), because a float32 count stops at 2**24. A state of zeros is
empty: merged with another it changes nothing.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jax import Array

from jaxdl.core.checks import check_shapes, letters
from jaxdl.core.task import Sums


class Additive(clu_metrics.Metric):
    """A state whose leaves are sums."""

    def merge(self, other: Any) -> Any:
        """Both together."""
        mine, others = vars(self), vars(other)
        return type(self)(**{name: value + others[name] for name, value in mine.items()})

    def reduce(self) -> Any:
        """All that lie along the leaves' leading dimension, together."""
        return type(self)(**{name: value.sum(0) for name, value in vars(self).items()})


@flax.struct.dataclass
class Mean(Additive):
    """`total / weight`; empty while the weight is 0."""

    total: Array
    weight: Array

    @classmethod
    def empty(cls) -> Mean:
        """The state that changes nothing when merged."""
        return cls(total=jnp.float32(0), weight=jnp.float32(0))

    @classmethod
    def from_sums(cls, sums: Sums) -> Mean:
        """The mean of a loss."""
        return cls(total=sums.total, weight=sums.weight)

    @classmethod
    def from_model_output(cls, values: Array, mask: Array | None = None, **_: Any) -> Mean:
        """Mean of `values` [...] where `mask` [...] is set, each weighted by it."""
        lead = letters(values.ndim)
        check_shapes({"values": values, "mask": mask}, values=lead, mask=lead)
        values = values.astype(jnp.float32)
        weight = jnp.ones_like(values) if mask is None else mask.astype(jnp.float32)
        return cls(total=(jnp.where(weight > 0, values, 0) * weight).sum(), weight=weight.sum())

    def compute(self) -> Any:
        """The mean; NaN when empty."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.total / self.weight


@flax.struct.dataclass
class Perplexity(Mean):
    """exp(mean negative log-likelihood in nats), weighted by token."""

    def compute(self) -> Any:
        """exp of the mean, infinite where it overflows."""
        with np.errstate(over="ignore"):
            return np.exp(np.asarray(super().compute()))


@flax.struct.dataclass
class Accuracy(Additive):
    """Share of correct labels, counted in integers."""

    correct: Array
    weight: Array

    @classmethod
    def empty(cls) -> Accuracy:
        """The state that changes nothing when merged."""
        return cls(correct=jnp.int32(0), weight=jnp.int32(0))

    @classmethod
    def from_model_output(
        cls, logits: Array, labels: Array, mask: Array | None = None, **_: Any
    ) -> Accuracy:
        """Top-1 of logits [..., V] against labels [...] where mask [...] is not 0."""
        lead = letters(labels.ndim)
        arrays = {"labels": labels, "logits": logits, "mask": mask}
        check_shapes(arrays, labels=lead, logits=f"{lead} V", mask=lead)
        keep = jnp.ones(labels.shape, bool) if mask is None else mask > 0
        hit = (logits.argmax(-1) == labels) & keep
        return cls(correct=hit.sum(dtype=jnp.int32), weight=keep.sum(dtype=jnp.int32))

    def compute(self) -> Any:
        """Correct over counted; NaN when empty."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.correct / self.weight


@flax.struct.dataclass
class Last(clu_metrics.Metric):
    """The latest value, such as a learning rate."""

    value: Array
    weight: Array

    @classmethod
    def of(cls, value: Any) -> Last:
        """A state of one value."""
        return cls(value=jnp.asarray(value, jnp.float32), weight=jnp.float32(1))

    def merge(self, other: Last) -> Last:
        """The other's value, unless it is empty."""
        where: Any = jnp.where if isinstance(other.weight, Array) else np.where
        return type(self)(
            value=where(other.weight > 0, other.value, self.value),
            weight=self.weight + other.weight,
        )

    def reduce(self) -> Last:
        """The last along the leading dimension that is not empty."""
        last = self.weight.shape[0] - 1 - (self.weight[::-1] > 0).argmax()
        return type(self)(value=self.value[last], weight=self.weight.sum(0))

    def compute(self) -> Any:
        """The value."""
        return self.value
