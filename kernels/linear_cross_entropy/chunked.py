"""The loss and its gradients, a chunk of rows at a time, by XLA: on every platform.

Only the logits of one chunk exist at a time, and they are computed once: where gradients are wanted
they are made on the way forward, since that of a sum is known up to one factor (Hsu et al. 2024,
arXiv:2410.10989, section 3.2). A chunk has about as many rows as there are features, so that its
logits take the memory that the gradient of the weights takes.

N rows, D features, V tokens of the weights at hand, C rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.kernels.linear_cross_entropy.reference import Loss, checked, logits, wide

LEAST_ROWS, MULTIPLE = 256, 128


def forward(
    x: Array,
    w: Array,
    bias: Array | None,
    labels: Array,
    weights: Array,
    loss: Loss,
    axes: tuple[str, ...] = (),
    rows: int | None = None,
) -> tuple[Array, Array]:
    """As the reference; the vocabulary may be divided over the named axes, in their order."""

    def step(sums, chunk):
        scores = _Scores(*chunk, w, bias, loss, axes)
        return _added(sums, (scores.total(), scores.hits())), None

    start = jnp.zeros((), wide(x)), jnp.zeros((), jnp.int32)
    return lax.scan(step, start, _chunks(x, labels, weights, rows))[0]


def gradients(
    x: Array,
    w: Array,
    bias: Array | None,
    labels: Array,
    weights: Array,
    loss: Loss,
    axes: tuple[str, ...] = (),
    rows: int | None = None,
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array | None, Array]]:
    """As `forward`, and the gradients of the sum by x, w, bias and weights.

    That by x is only the part of the tokens at hand. Those by w and bias are in float32.
    """

    def step(sums, chunk):
        scores = _Scores(*chunk, w, bias, loss, axes)
        dlogits = scores.gradient()
        found = (scores.total(), scores.hits()), _by_weights(dlogits, scores.x, bias, loss)
        return _added(sums, found), (_by_input(dlogits, scores.x, w, loss), scores.rows())

    start = jnp.zeros((), wide(x)), jnp.zeros((), jnp.int32)
    zeros = jnp.zeros(w.shape, wide(x)), None if bias is None else jnp.zeros(bias.shape, wide(x))
    (found, (dw, dbias)), each = lax.scan(step, (start, zeros), _chunks(x, labels, weights, rows))
    dx, dweights = (a.reshape(-1, *a.shape[2:])[: x.shape[0]] for a in each)
    return found, (dx, dw, dbias, dweights)


class _Scores:
    """Logits [C, V] of a chunk, and what follows from them."""

    def __init__(self, x, labels, weights, w, bias, loss: Loss, axes: tuple[str, ...]):
        self.loss, self.weights = loss, weights
        self.add: Callable = partial(lax.psum, axis_name=axes) if axes else lambda a: a
        self.x = jnp.where(weights[:, None] > 0, x, 0)
        self.capped = logits(self.x, w, bias, loss)
        first = lax.axis_index(axes) * self.capped.shape[1] if axes else 0
        tokens = (first + jnp.arange(self.capped.shape[1], dtype=jnp.int32))[None]
        self.is_gold = tokens == labels[:, None]
        # Only where the weights are padded.
        count = w.shape[0 if loss.tied else 1] * (lax.axis_size(axes) if axes else 1)
        self.known = tokens < loss.vocab if loss.vocab < count else None
        self.logits = self._kept(self.capped, jnp.finfo(self.capped.dtype).min)
        top = self.logits.max(-1)
        self.top = lax.pmax(top, axes) if axes else top
        # Once: on a CPU exponentials cost more than the memory that keeps them.
        self.exps = jnp.exp(self.logits - self.top[:, None])
        self.sum = self.add(self.exps.sum(-1))
        self.log_z = self.top + jnp.log(self.sum)
        self.gold = checked(self._gold(labels - first), labels, self.weights, loss)

    def rows(self) -> Array:
        """The loss of each row [C]."""
        smoothing, found = self.loss.smoothing, self.log_z
        found = found - (1 - smoothing) * self.gold + self.loss.z * jnp.square(self.log_z)
        if smoothing:
            mean = self.add(self._kept(self.capped, 0).sum(-1)) / self.loss.vocab
            found = found - smoothing * mean
        return found

    def total(self) -> Array:
        """The weighted sum of the losses."""
        return (self.weights * self.rows()).sum()

    def hits(self) -> Array:
        """How many rows that count have their label on top."""
        return ((self.gold >= self.top) & (self.weights > 0)).sum(dtype=jnp.int32)

    def gradient(self) -> Array:
        """That of the total by `x w + bias` [C, V]."""
        smoothing = self.loss.smoothing
        slope = 1 + 2 * self.loss.z * self.log_z
        found = self.exps * (self.weights * slope / self.sum)[:, None]
        found = found - jnp.where(self.is_gold, (1 - smoothing) * self.weights[:, None], 0)
        if smoothing:
            found = found - self._kept(smoothing / self.loss.vocab * self.weights[:, None], 0)
        return found * (1 - jnp.square(self.capped / self.loss.cap)) if self.loss.cap else found

    def _gold(self, labels: Array) -> Array:
        """The labels' logits, wherever they are; labels count from the first token at hand."""
        here = (labels >= 0) & (labels < self.logits.shape[1])
        at = jnp.where(here, labels, 0)[:, None]
        return self.add(jnp.where(here, jnp.take_along_axis(self.logits, at, 1)[:, 0], 0))

    def _kept(self, a: Array, other: Any) -> Array:
        return a if self.known is None else jnp.where(self.known, a, other)


def _by_weights(dlogits: Array, x: Array, bias: Array | None, loss: Loss) -> tuple:
    by_bias = None if bias is None else dlogits.sum(0)
    pair = (dlogits, x) if loss.tied else (x, dlogits)
    return _product(*pair, ((0,), (0,)), x), by_bias


def _by_input(dlogits: Array, x: Array, w: Array, loss: Loss) -> Array:
    found = _product(dlogits, w, ((1,), (0 if loss.tied else 1,)), x)
    return found if x.dtype == jnp.float16 else found.astype(x.dtype)


def _product(a: Array, b: Array, contracted: tuple, x: Array) -> Array:
    # Before a loss scale is applied, float16 would lose most of a softmax.
    kind = jnp.float32 if x.dtype == jnp.float16 else x.dtype
    a, b = a.astype(kind), b.astype(kind)
    return lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=wide(x))


def _added(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _chunks(x: Array, labels: Array, weights: Array, rows: int | None) -> tuple[Array, ...]:
    """All three as [chunks, C, ...]; rows that are filled up have the weight 0."""
    count, features = x.shape
    most = rows or max(LEAST_ROWS, math.ceil(features / MULTIPLE) * MULTIPLE)
    chunks = max(math.ceil(count / most), 1)
    each = math.ceil(count / chunks)
    pad = chunks * each - count

    def cut(a):
        a = jnp.pad(a, ((0, pad),) + ((0, 0),) * (a.ndim - 1)) if pad else a
        return a.reshape(chunks, each, *a.shape[1:])

    return cut(x), cut(labels), cut(weights.astype(wide(x)))
