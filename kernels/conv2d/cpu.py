"""The convolution on a CPU: matrix products where XLA's own convolution is slow, by shape.

K and L are the kernel's height and width. The columns of x are its windows, [B, H', W', K L C],
so that a convolution is one product, `columns(x) w`. Products win where output positions are few:
XLA then spends its time on turning the weights round. The bounds were measured: README.md.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.kernels.conv2d import reference
from jaxdl.kernels.conv2d.reference import Padding, Pair

CHUNK = 4 * 2**20
"""Bytes of columns at a time in the kernel's gradient, about what a core's cache holds."""
DEEP = 512
"""Columns this wide (K L C) make the kernel's gradient a product worth its copies."""


def forward(x: Array, w: Array, *, stride: Pair, padding: Padding) -> Array:
    """As the reference: `columns(x) w`."""
    window, features = w.shape[:2], w.shape[-1]
    out = _out_size(x.shape[1:3], window, stride, padding)
    few = x.shape[0] * math.prod(out) <= features
    if not (few or window == stride == (1, 1) or _naive(x.shape[1:3], window)):
        return reference.forward(x, w, stride=stride, padding=padding)
    columns = _columns(x, window, out, stride, padding)
    return _product(columns, w.reshape(-1, features), ((3,), (0,))).astype(w.dtype)


def input_gradient(dy: Array, w: Array, *, size: Pair, stride: Pair, padding: Padding) -> Array:
    """As the reference: the columns' gradient `dy w^T`, each added where its window lay."""
    batch, *out, features = dy.shape
    few = batch * math.prod(out) <= 2 * features
    if not (few or w.shape[:2] == (1, 1) or _naive(out, w.shape[:2])):
        return reference.input_gradient(dy, w, size=size, stride=stride, padding=padding)
    columns = _product(dy, w.reshape(-1, features), ((3,), (1,)))
    columns = columns.reshape(batch, *out, *w.shape[:3])
    zero, dx = jnp.zeros((), columns.dtype), 0
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            edges = [
                _edges(at, n, m, s, p)
                for at, n, m, s, p in zip((i, j), size, out, stride, padding, strict=True)
            ]
            dx += jax.lax.pad(columns[..., i, j, :], zero, [(0, 0, 0), *edges, (0, 0, 0)])
    return dx.astype(dy.dtype)


def kernel_gradient(x: Array, dy: Array, *, size: Pair, stride: Pair, padding: Padding) -> Array:
    """As the reference: `columns(x)^T dy`, a few examples at a time."""
    batch, *out, features = dy.shape
    width = math.prod(size) * x.shape[-1]
    if size != (1, 1) and width < DEEP:
        return reference.kernel_gradient(x, dy, size=size, stride=stride, padding=padding)
    rows = _rows(batch, math.prod(out) * width * x.dtype.itemsize if size != (1, 1) else 0)
    parts = batch // rows

    def part(x, dy):
        columns = _columns(x, size, out, stride, padding)
        return _product(columns, dy, ((0, 1, 2), (0, 1, 2)))

    def add(total, i):
        # Rows i, i + parts, ...: a batch over several devices stays where it is.
        each = (a.reshape(rows, parts, *a.shape[1:])[:, i] for a in (x, dy))
        return total + part(*each), None

    if parts == 1:
        dw = part(x, dy)
    else:
        zero = jnp.zeros((width, features), jnp.promote_types(x.dtype, jnp.float32))
        dw, _ = jax.lax.scan(add, zero, jnp.arange(parts))
    return dw.reshape(*size, x.shape[-1], features).astype(dy.dtype)


def _naive(image: Pair, window: Pair) -> bool:
    """Whether XLA would slide the image over the larger window, which it does in naive loops."""
    return math.prod(image) < math.prod(window)


def _columns(x: Array, window: Pair, out: Pair, stride: Pair, padding: Padding) -> Array:
    """All windows of x [B, H, W, C], each as a row: [B, H', W', K L C]."""
    edges = [(before, after, 0) for before, after in padding]  # negative ones crop
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    (height, width), (s, t) = out, stride
    parts = [
        x[:, i : i + s * (height - 1) + 1 : s, j : j + t * (width - 1) + 1 : t]
        for i in range(window[0])
        for j in range(window[1])
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


def _product(a: Array, b: Array, contracted: tuple) -> Array:
    kind = jnp.promote_types(a.dtype, jnp.float32)
    return jax.lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=kind)


def _out_size(image: Pair, window: Pair, stride: Pair, padding: Padding) -> Pair:
    return tuple(
        (n + sum(p) - k) // s + 1 for n, k, s, p in zip(image, window, stride, padding, strict=True)
    )


def _edges(at: int, size: int, out: int, stride: int, padding: Pair) -> tuple[int, int, int]:
    """What `lax.pad` adds before, after and between, to put output h at `stride h + at - pad`."""
    before = at - padding[0]
    return before, size - before - (stride * (out - 1) + 1), stride - 1


def _rows(batch: int, size: int) -> int:
    """The most examples of `size` bytes, dividing the batch, that fit into a chunk; at least 1."""
    return max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * size <= CHUNK))
