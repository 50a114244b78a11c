"""Ring attention (Liu et al. 2023, arXiv:2310.01889), on the devices of a manual mesh axis.

B batch, T queries of a block, S its keys, G heads of keys and values, N heads of queries for each,
K head size; R devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

LEAST = jnp.finfo(jnp.float32).min


@dataclass(frozen=True)
class Ring:
    """Attention over the `count` devices along `axes`, each with its own run of T positions.

    Keys and values travel; the results of blocks are put together by their normalisers, in float32.
    The backward pass is a ring too, so that a device keeps its own share for it and nothing more.

    Where it is `causal`, device r works on chunks r and 2R - 1 - r of 2R ("zigzag"): all have as
    much to do in every step, and nobody looks at a block that lies in the future.

    Shapes: q [B, T, H, K], k and v [B, T, G, K]; or None: mask, which keys a query may see, and
    keep, by what its weights are multiplied, [1 or B, 1 or H, T, R T] -> [B, T, H, K].
    """

    axes: tuple[str, ...]
    count: int
    causal: bool

    def __call__(
        self, q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None
    ) -> Array:
        """This device's rows."""
        groups = k.shape[2]
        grouped = q.reshape(*q.shape[:2], groups, -1, q.shape[3])
        weights = [_by_group(x, groups) for x in (mask, keep)]
        deal, collect = (self._deal, self._collect) if self.causal else (_as_is, _as_is)
        rows = [deal(x, 1) for x in (grouped, k, v)]
        y = _attention(self, *rows, *(x if x is None else deal(x, 3) for x in weights))
        y = collect(y, 1).reshape(q.shape)
        if mask is None:
            return y
        if self.causal:
            first = self._me() * q.shape[1]
            rows = first + jnp.arange(q.shape[1])[:, None]
            mask &= (jnp.arange(mask.shape[3])[None] <= rows)[None, None]
        return jnp.where(mask.any(-1).swapaxes(1, 2)[..., None], y, 0)

    def around(self, visit: Callable, state: Any, k: Array, v: Array) -> Any:
        """Folds `state = visit(state, i, k, v)` over the blocks of the i-th device before this."""

        def step(carry, i):
            state, block = carry
            # The next block is on its way while this one is worked on.
            return (visit(state, i, *block), self.passed(block)), None

        carry = state, self.passed((k, v))
        (state, block), _ = lax.scan(step, carry, jnp.arange(1, self.count - 1))
        return visit(state, self.count - 1, *block)

    def passed(self, tree: Any) -> Any:
        """What the device before this holds."""
        return self._moved(tree, [(i + 1) % self.count for i in range(self.count)])

    def own(self, fn: Callable, q: Array, k: Array, v: Array, mask, keep, *rest: Array) -> Any:
        """`fn` on this device's own block."""
        time, (mask, keep) = q.shape[1], self._columns((mask, keep), self._me())
        if self.causal:
            past = jnp.tril(jnp.ones((1, 1, 1, time, time), bool))
            mask = past if mask is None else mask & past
        return fn(q, k, v, mask, keep, *rest, start=0, stop=time)

    def other(self, fn: Callable, i: Any, q: Array, k: Array, v: Array, mask, keep, *rest) -> Any:
        """`fn` on the queries and keys of the i-th device before this that may meet."""
        time, source = q.shape[1], (self._me() - i) % self.count
        args = q, k, v, *self._columns((mask, keep), source), *rest
        if not self.causal:
            return fn(*args, start=0, stop=time)
        early, late = partial(fn, start=0, stop=time // 2), partial(fn, start=time // 2, stop=time)
        return lax.cond(source < self._me(), early, late, *args)

    def _columns(self, weights: Any, source: Any) -> Any:
        """Those of the keys that device `source` works on."""

        def columns(x):
            size = x.shape[-2] // 2 if self.causal else x.shape[-2]
            starts = (source, 2 * self.count - 1 - source) if self.causal else (source,)
            return jnp.concatenate(
                [lax.dynamic_slice_in_dim(x, s * size, size, -1) for s in starts], -1
            )

        return jax.tree.map(columns, weights)

    def _deal(self, x: Array, axis: int) -> Array:
        """Chunks r and 2R - 1 - r, of the run that is chunks 2r and 2r + 1."""
        first, second = jnp.split(x, 2, axis)
        first = self._moved(first, self._owners(0))
        second = self._moved(second, self._owners(1))
        return self._by_parity(first, second, axis)

    def _collect(self, x: Array, axis: int) -> Array:
        """The run of positions of which `_deal` has made `x`."""
        first, second = jnp.split(self._by_parity(*jnp.split(x, 2, axis), axis), 2, axis)
        first = self._moved(first, _inverse(self._owners(0)))
        second = self._moved(second, _inverse(self._owners(1)))
        return jnp.concatenate([first, second], axis)

    def _owners(self, parity: int) -> list[int]:
        """Who works on the chunks 2r + parity."""
        return [min(c, 2 * self.count - 1 - c) for c in range(parity, 2 * self.count, 2)]

    def _by_parity(self, first: Array, second: Array, axis: int) -> Array:
        """Both in this order on even devices, whose smaller chunk is an even one, or turned."""
        pair = jnp.concatenate([first, second], axis), jnp.concatenate([second, first], axis)
        return jnp.where(self._me() % 2 == 0, *pair)

    def _moved(self, tree: Any, targets: list[int]) -> Any:
        return lax.ppermute(tree, self.axes, list(enumerate(targets)))

    def _me(self) -> Array:
        return lax.axis_index(self.axes)


def _as_is(x: Array, axis: int) -> Array:
    del axis
    return x


def _by_group(x: Array | None, groups: int) -> Array | None:
    """Weights [b, 1 or H, T, S] -> [b, 1 or G, 1 or N, T, S]."""
    if x is None:
        return None
    heads = (1, 1) if x.shape[1] == 1 else (groups, -1)
    return x.reshape(x.shape[0], *heads, *x.shape[2:])


def _inverse(targets: list[int]) -> list[int]:
    return [targets.index(i) for i in range(len(targets))]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    ring: Ring, q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None
) -> Array:
    """Shapes: q [B, T, G, N, K], k and v [B, T, G, K] -> [B, T, G, N, K]."""
    return _forward(ring, q, k, v, mask, keep)[0]


def _forward(ring, q, k, v, mask, keep):
    def visit(state, i, k, v):
        return _joined(state, ring.other(_block, i, q, k, v, mask, keep))

    y, norm = ring.around(visit, ring.own(_block, q, k, v, mask, keep), k, v)
    y = y.astype(q.dtype)
    return y, (q, k, v, mask, keep, y, norm)


def _backward(ring, kept, dy):
    q, k, v, mask, keep, y, norm = kept
    inner = jnp.einsum("btgnk,btgnk->btgn", dy, y, preferred_element_type=jnp.float32)
    rest = mask, keep, dy, norm, inner

    def visit(state, i, k, v):
        dq, travelling = state
        more, of_block = ring.other(_gradients, i, q, k, v, *rest)
        return dq + more, jax.tree.map(jnp.add, ring.passed(travelling), of_block)

    dq, travelling = ring.around(visit, ring.own(_gradients, q, k, v, *rest), k, v)
    dk, dv = ring.passed(travelling)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_attention.defvjp(_forward, _backward)


def _block(q, k, v, mask, keep, *, start: int, stop: int) -> tuple[Array, Array]:
    """Queries from `start` on over keys before `stop`, as if there were no others, and the
    logarithm of their normalisers; the queries before get weight 0.

    Shapes: q [B, T, G, N, K], k and v [B, S, G, K] -> [B, T, G, N, K], [B, T, G, N] f32.
    """
    q, k, v = q[:, start:], k[:, :stop], v[:, :stop]
    mask, keep = _cut((mask, keep), start, stop)
    logits = _logits(q, k, mask)
    norm = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - norm)
    if keep is not None:
        weights *= keep
    y = _product("bgnts,bsgk->btgnk", weights.astype(v.dtype), v)
    return _padded(y, start), _padded(jnp.moveaxis(norm[..., 0], -1, 1), start, LEAST)


def _joined(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """Results over two sets of keys, as one over both."""
    norm = jnp.logaddexp(left[1], right[1])
    y = sum(y * jnp.exp(n - norm)[..., None] for y, n in (left, right))
    return y, norm


def _gradients(q, k, v, mask, keep, dy, norm, inner, *, start: int, stop: int):
    """What the queries from `start` on and the keys before `stop` add to dq, and to (dk, dv), f32.

    `norm` and `inner`, the products of y and dy, are those over all keys.
    """
    time = k.shape[1]
    q, dy, norm, inner = (x[:, start:] for x in (q, dy, norm, inner))
    k, v = k[:, :stop], v[:, :stop]
    mask, keep = _cut((mask, keep), start, stop)
    norm, inner = (jnp.moveaxis(x, 1, -1)[..., None] for x in (norm, inner))
    weights = jnp.exp(_logits(q, k, mask) - norm)
    dweights = _product("btgnk,bsgk->bgnts", dy, v)
    dropped = weights
    if keep is not None:
        dropped, dweights = weights * keep, dweights * keep
    dlogits = (weights * (dweights - inner) * q.shape[-1] ** -0.5).astype(q.dtype)
    dq = _product("bgnts,bsgk->btgnk", dlogits, k)
    dk = _product("bgnts,btgnk->bsgk", dlogits, q)
    dv = _product("bgnts,btgnk->bsgk", dropped.astype(dy.dtype), dy)
    return _padded(dq, start), tuple(_padded(x, 0, after=time - stop) for x in (dk, dv))


def _logits(q: Array, k: Array, mask: Array | None) -> Array:
    logits = _product("btgnk,bsgk->bgnts", q, k) * q.shape[-1] ** -0.5
    return logits if mask is None else jnp.where(mask, logits, LEAST)


def _product(terms: str, *args: Array) -> Array:
    return jnp.einsum(terms, *args, preferred_element_type=jnp.float32)


def _cut(weights: Any, start: int, stop: int) -> Any:
    return jax.tree.map(lambda x: x[..., start:, :stop], weights)


def _padded(x: Array, before: int, value: float = 0.0, *, after: int = 0) -> Array:
    """`x` with more positions, of that value."""
    sides = [(0, 0)] * x.ndim
    sides[1] = before, after
    return jnp.pad(x, sides, constant_values=value)
