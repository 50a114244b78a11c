"""The loss and its gradients, a chunk of rows at a time, by XLA: on every platform.

Only the logits of one chunk exist at a time, and they are computed once: where gradients are wanted
they are made on the way forward, since that of a sum is known up to one factor (Hsu et al. 2024,
arXiv:2410.10989, section 3.2). A chunk has about as many rows as there are features, so that its
logits take the memory that the gradient of the weights takes.

A chunk's logits may be worked on in tiles of tokens that fit a cache. The last tile begins earlier
where tiles do not divide the tokens; those that were in the tile before are hidden in it.

N rows, D features, V tokens of the weights at hand, C rows of a chunk, T tokens of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.kernels.linear_cross_entropy.reference import Loss, checked, logits, wide

LEAST_ROWS, MULTIPLE = 256, 128
CPU_TILE = 2**20
"""Logits of a tile on a CPU."""


def forward(
    x: Array,
    w: Array,
    bias: Array | None,
    labels: Array,
    weights: Array,
    loss: Loss,
    axes: tuple[str, ...] = (),
    rows: int | None = None,
    tile: int | None = None,
) -> tuple[Array, Array]:
    """As the reference; the vocabulary may be divided over the named axes, in their order.

    `tile` logits are worked on at a time, or with None all of a chunk.
    """

    def step(sums, chunk):
        scores = _Scores(*chunk, w, bias, loss, axes, tile, keep=False)
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
    tile: int | None = None,
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array | None, Array]]:
    """As `forward`, and the gradients of the sum by x, w, bias and weights.

    That by x is only the part of the tokens at hand. Those by w and bias are in float32.
    """

    def step(carry, chunk):
        sums, by_table = carry
        scores = _Scores(*chunk, w, bias, loss, axes, tile, keep=True)
        by_table, dx = scores.gradients(by_table)
        return (_added(sums, (scores.total(), scores.hits())), by_table), (dx, scores.rows())

    start = jnp.zeros((), wide(x)), jnp.zeros((), jnp.int32)
    zeros = jnp.zeros(w.shape, wide(x)), None if bias is None else jnp.zeros(bias.shape, wide(x))
    (found, (dw, dbias)), each = lax.scan(step, (start, zeros), _chunks(x, labels, weights, rows))
    dx, dweights = (a.reshape(-1, *a.shape[2:])[: x.shape[0]] for a in each)
    return found, (dx, dw, dbias, dweights)


class _Tile(NamedTuple):
    """What is known of the logits of some tokens."""

    exps: Array | None
    """`exp(y - top)` [C, T], and 0 where a token is hidden; kept for gradients."""
    capped: Array | None
    """y [C, T], kept where gradients need it."""
    top: Array
    sum: Array
    """Of exps [C]."""
    gold: Array
    """The label's y if it is here, else 0 [C]."""
    all: Array
    """The sum of y [C], for smoothing; else 0."""


class _Scores:
    """What follows from the logits of a chunk."""

    def __init__(self, x, labels, weights, w, bias, loss, axes, tile, *, keep: bool):
        self.loss, self.weights, self.w, self.bias, self.keep = loss, weights, w, bias, keep
        add: Callable = partial(lax.psum, axis_name=axes) if axes else lambda a: a
        self.x = jnp.where(weights[:, None] > 0, x, 0)
        self.along = 0 if loss.tied else 1
        count = w.shape[self.along]
        first = lax.axis_index(axes) * count if axes else 0
        self.labels, self.vocab = labels - first, loss.vocab - first
        self.padded = loss.vocab < count * (lax.axis_size(axes) if axes else 1)
        self.tiles = _tiles(count, count if tile is None else max(tile // len(labels), 1))
        self.size = math.ceil(count / self.tiles)
        _, self.each = self._over_tiles(lambda none, i: (none, self._tile(i)), None)
        top = self.each.top.max(0)
        self.top = lax.pmax(top, axes) if axes else top
        # Each tile's exponentials are of its own top.
        self.scale = jnp.exp(self.each.top - self.top[None])
        self.sum = add((self.each.sum * self.scale).sum(0))
        self.log_z = self.top + jnp.log(self.sum)
        self.gold = checked(add(self.each.gold.sum(0)), labels, weights, loss)
        self.mean = add(self.each.all.sum(0)) / loss.vocab if loss.smoothing else None

    def rows(self) -> Array:
        """The loss of each row [C]."""
        smoothing, found = self.loss.smoothing, self.log_z
        found = found - (1 - smoothing) * self.gold + self.loss.z * jnp.square(self.log_z)
        return found if self.mean is None else found - smoothing * self.mean

    def total(self) -> Array:
        """The weighted sum of the losses."""
        return (self.weights * self.rows()).sum()

    def hits(self) -> Array:
        """How many rows that count have their label on top."""
        return ((self.gold >= self.top) & (self.weights > 0)).sum(dtype=jnp.int32)

    def gradients(self, by_table: tuple[Array, Array | None]) -> tuple[tuple, Array]:
        """Adds that of the total by w and by bias; and that by x [C, D]."""

        def step(carry, i):
            (dw, dbias), dx = carry
            dlogits, w = self._by_logits(i), self._of_tile(self.w, self.along, i)
            pair = (dlogits, self.x) if self.loss.tied else (self.x, dlogits)
            dw = self._add_tile(dw, _product(*pair, ((0,), (0,)), self.x), self.along, i)
            if dbias is not None:
                dbias = self._add_tile(dbias, dlogits.sum(0), 0, i)
            return ((dw, dbias), dx + _product(dlogits, w, ((1,), (self.along,)), self.x)), None

        dx = jnp.zeros(self.x.shape, wide(self.x))
        (by_table, dx), _ = self._over_tiles(step, (by_table, dx))
        return by_table, dx if self.x.dtype == jnp.float16 else dx.astype(self.x.dtype)

    def _tile(self, i: Any) -> _Tile:
        w = self._of_tile(self.w, self.along, i)
        bias = None if self.bias is None else self._of_tile(self.bias, 0, i)
        capped, known = logits(self.x, w, bias, self.loss), self._known(i)
        y = _kept(known, capped, jnp.finfo(capped.dtype).min)
        top = y.max(-1)
        # Once: on a CPU exponentials cost more than the memory that keeps them.
        exps = jnp.exp(y - top[:, None])
        at = self._at(i)
        gold = jnp.take_along_axis(y, jnp.maximum(at, 0)[:, None], 1)[:, 0]
        return _Tile(
            exps if self.keep else None,
            capped if self.keep and self.loss.cap else None,
            top,
            exps.sum(-1),
            jnp.where(at >= 0, gold, 0),
            _kept(known, capped, 0).sum(-1) if self.loss.smoothing else jnp.zeros_like(top),
        )

    def _by_logits(self, i: Any) -> Array:
        """The gradient of the total by `x w + bias` of a tile [C, T]."""
        kept, smoothing = jax.tree.map(lambda a: a[i], self.each), self.loss.smoothing
        slope = 1 + 2 * self.loss.z * self.log_z
        found = kept.exps * (self.weights * slope * self.scale[i] / self.sum)[:, None]
        is_gold = jnp.arange(self.size)[None] == self._at(i)[:, None]
        found = found - jnp.where(is_gold, (1 - smoothing) * self.weights[:, None], 0)
        if smoothing:
            everywhere = smoothing / self.loss.vocab * self.weights[:, None]
            found = found - _kept(self._known(i), everywhere, 0)
        return found if not self.loss.cap else found * (1 - jnp.square(kept.capped / self.loss.cap))

    def _over_tiles(self, step: Callable, carry: Any) -> tuple[Any, Any]:
        if self.tiles > 1:
            return lax.scan(step, carry, jnp.arange(self.tiles))
        carry, found = step(carry, 0)
        return carry, jax.tree.map(lambda a: a[None], found)

    def _start(self, i: Any) -> Any:
        """The first token of a tile."""
        return jnp.minimum(i * self.size, self.w.shape[self.along] - self.size)

    def _known(self, i: Any) -> Array | None:
        """Which tokens of a tile exist and were in none before [1, T]; None is all."""
        tokens = self._start(i) + jnp.arange(self.size)[None]
        known = tokens < self.vocab if self.padded else None
        if self.size * self.tiles > self.w.shape[self.along]:
            known = tokens >= i * self.size if known is None else known & (tokens >= i * self.size)
        return known

    def _at(self, i: Any) -> Array:
        """Where in a tile the labels are [C]; -1 where they are not."""
        at = self.labels - self._start(i)
        here = (self.labels >= i * self.size) & (at < self.size)
        return jnp.where(here, at, -1)

    def _of_tile(self, a: Array, along: int, i: Any) -> Array:
        if self.tiles == 1:
            return a
        return lax.dynamic_slice_in_dim(a, self._start(i), self.size, along)

    def _add_tile(self, a: Array, more: Array, along: int, i: Any) -> Array:
        if self.tiles == 1:
            return a + more
        more = self._of_tile(a, along, i) + more
        return lax.dynamic_update_slice_in_dim(a, more, self._start(i), along)


def _tiles(count: int, most: int) -> int:
    """Into how many tiles so many tokens are cut; if possible, a number that divides them."""
    least = math.ceil(count / most)
    return next((n for n in range(least, 2 * least) if count % n == 0), least)


def _kept(known: Array | None, a: Array, other: Any) -> Array:
    return a if known is None else jnp.where(known, a, other)


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
