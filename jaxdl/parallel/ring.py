"""Ring attention (Liu et al. 2023, arXiv:2310.01889), on the devices of a manual mesh axis.

Every meeting of one device's queries with one device's keys is a call of the attention kernel, so
that no [T, S] matrix is in memory.

B batch, T queries of a device, S keys, H heads, G heads of keys and values, K head size; R devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.kernels.flash_attention import attention_gradients, flash_attention


@dataclass(frozen=True)
class Ring:
    """Attention over the `count` devices along `axes`, each with its own run of T positions.

    Keys and values travel; the results of blocks are put together by their log-sum-exps, in
    float32, and so are the gradients. The backward pass is a ring too, so that a device keeps its
    own share for it and nothing more.

    Where it is `causal`, device r works on chunks r and 2R - 1 - r of 2R ("zigzag"): all have as
    much to do in every step, and nobody looks at a block that lies in the future. Of the blocks of
    another device, all queries then see the earlier chunk of keys, or the later chunk of queries
    sees all; only within a device is there anything to hide.

    Weights are dropped with the probability `dropout`, the same ones as on one device. `device` is
    the kind of device, by which kernels choose.

    Shapes: q [B, T, H, K], k and v [B, T, G, K]; or None: mask, which keys a query may see,
    [1 or B, 1 or H, 1 or T, R T], and the seeds of dropout [B, H, 1, 1] -> [B, T, H, K].
    """

    axes: tuple[str, ...]
    count: int
    causal: bool
    dropout: float = 0.0
    device: str = ""

    def __call__(
        self, q: Array, k: Array, v: Array, mask: Array | None, seeds: Array | None
    ) -> Array:
        """This device's rows."""
        if seeds is not None:
            seeds = seeds[..., 0, 0]
        if not self.causal:
            return _attention(self, q, k, v, mask, seeds)
        q, k, v = (self._deal(x, 1) for x in (q, k, v))
        if mask is not None and mask.shape[2] > 1:
            mask = self._deal(mask, 2)
        return self._collect(_attention(self, q, k, v, mask, seeds), 1)

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

    def own(self, fn: Callable, rows: tuple, *args: Any) -> Any:
        """`fn` on this device's own block."""
        return fn(self, rows, *args, self._me(), 0, rows[0].shape[1], causal=self.causal)

    def other(self, fn: Callable, i: Any, rows: tuple, *args: Any) -> Any:
        """`fn` on the queries and keys of the i-th device before this that may meet."""
        time, source = rows[0].shape[1], (self._me() - i) % self.count
        if not self.causal:
            return fn(self, rows, *args, source, 0, time)

        def early(*args):
            return fn(self, *args, source, 0, time // 2)

        def late(*args):
            return fn(self, *args, source, time // 2, time)

        return lax.cond(source < self._me(), early, late, rows, *args)

    def options(
        self, mask: Array | None, seeds: Array | None, source: Any, start: int, stop: int, time: int
    ) -> dict[str, Any]:
        """How the kernel attends from this device's queries from `start` on to the keys of device
        `source` before `stop`.
        """
        found: dict[str, Any] = {"device": self.device}
        if mask is not None:
            seen = mask[:, :, start:] if mask.shape[2] > 1 else mask
            seen = self._columns(seen, source)[..., :stop]
            found["bias"] = jnp.where(seen, 0.0, -jnp.inf)
        if seeds is not None:
            runs = self._run(self._me(), time, start), self._run(source, time)
            found |= {"dropout": self.dropout, "seeds": seeds, "runs": jnp.stack(runs)}
        return found

    def _chunks(self, device: Any) -> tuple[Any, ...]:
        """Those that a device works on."""
        return (device, 2 * self.count - 1 - device) if self.causal else (device,)

    def _run(self, device: Any, time: int, start: int = 0) -> Array:
        """Where the positions of a device from its `start` on lie, for the kernel."""
        chunks = self._chunks(device)
        size = time // len(chunks)
        first, last = chunks[0] * size, chunks[-1] * size
        return jnp.stack([first + start, jnp.int32(size - start), last])

    def _columns(self, mask: Array, source: Any) -> Array:
        """Those of the keys that device `source` works on."""
        chunks = self._chunks(source)
        size = mask.shape[3] // self.count // len(chunks)
        cut = partial(lax.dynamic_slice_in_dim, mask, slice_size=size, axis=3)
        return jnp.concatenate([cut(chunk * size) for chunk in chunks], 3)

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


def _inverse(targets: list[int]) -> list[int]:
    return [targets.index(i) for i in range(len(targets))]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    ring: Ring, q: Array, k: Array, v: Array, mask: Array | None, seeds: Array | None
) -> Array:
    return _forward(ring, q, k, v, mask, seeds)[0]


def _forward(ring, q, k, v, mask, seeds):
    def visit(state, i, k, v):
        return _joined(state, ring.other(_block, i, (q,), k, v, mask, seeds))

    y, norm = ring.around(visit, ring.own(_block, (q,), k, v, mask, seeds), k, v)
    y = y.astype(q.dtype)
    return y, (q, k, v, mask, seeds, y, norm)


def _backward(ring, kept, dy):
    q, k, v, mask, seeds, y, norm = kept
    rows = q, y, norm, dy

    def visit(state, i, k, v):
        dq, travelling = state
        more, of_block = ring.other(_gradients, i, rows, k, v, mask, seeds)
        return dq + more, jax.tree.map(jnp.add, ring.passed(travelling), of_block)

    dq, travelling = ring.around(visit, ring.own(_gradients, rows, k, v, mask, seeds), k, v)
    dk, dv = ring.passed(travelling)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_attention.defvjp(_forward, _backward)


def _block(ring, rows, k, v, mask, seeds, source, start, stop, causal=False):
    """Queries from `start` on over keys before `stop`, as if there were no others, and their
    log-sum-exps; the queries before see nothing.

    Shapes: q [B, T, H, K], k and v [B, T, G, K] -> [B, T, H, K] f32, [B, T, H] f32.
    """
    (q,) = rows
    options = ring.options(mask, seeds, source, start, stop, q.shape[1])
    q, k, v = q[:, start:], k[:, :stop], v[:, :stop]
    y, norm = flash_attention(q, k, v, causal=causal, return_lse=True, **options)
    return _padded(y.astype(norm.dtype), start), _padded(norm.swapaxes(1, 2), start, -jnp.inf)


def _joined(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """Results over two sets of keys, as one over both."""
    none = jnp.isneginf(left[1]) & jnp.isneginf(right[1])
    # Else the gradient would be of a difference of infinities, though where() does not take it.
    norms = [jnp.where(none, 0, norm) for _, norm in (left, right)]
    norm = jnp.logaddexp(*norms)
    parts = zip((left[0], right[0]), norms, strict=True)
    y = sum(y * jnp.exp(n - norm)[..., None] for y, n in parts)
    return y, jnp.where(none, -jnp.inf, norm)


def _gradients(ring, rows, k, v, mask, seeds, source, start, stop, causal=False):
    """What the queries from `start` on and the keys before `stop` add to dq, and to (dk, dv), f32.

    Of the `rows` (q, y, norm, dy), y and the log-sum-exp are those over all keys.
    """
    time = k.shape[1]
    options = ring.options(mask, seeds, source, start, stop, time)
    q, y, norm, dy = (x[:, start:] for x in rows)
    given = q, k[:, :stop], v[:, :stop], y, norm.swapaxes(1, 2), dy
    dq, *dkv = attention_gradients(*given, causal=causal, **options)
    return _padded(dq, start), tuple(_padded(x, 0, after=time - stop) for x in dkv)


def _padded(x: Array, before: int, value: float = 0.0, *, after: int = 0) -> Array:
    """`x` with more positions, of that value."""
    sides = [(0, 0)] * x.ndim
    sides[1] = before, after
    return jnp.pad(x, sides, constant_values=value)
