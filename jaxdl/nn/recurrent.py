"""Recurrent layers.

B batch, T time, D input width, H hidden width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxdl.nn.layers import named
from jaxdl.parallel import constrain


class LSTM(nn.Module):
    """Long short-term memory, gates in the order i, f, g, o.

    `[i, f, g, o] = W x_t + b + U h_{t-1} + d`, `c_t = s(f) c_{t-1} + s(i) tanh(g)` and
    `h_t = s(o) tanh(c_t)`, s the logistic function (Hochreiter & Schmidhuber 1997, with the forget
    gate of Gers et al. 2000). Starts from zeros; with `decode` from the state that the call before
    left in the collection `cache`.

    Shapes: x [B, T, D] -> h [B, T, H].
    """

    width: int

    @nn.compact
    def __call__(self, x: Array, *, decode: bool = False) -> Array:
        """Hidden states."""
        batch, _, width = x.shape
        lecun, orthogonal = nn.initializers.lecun_normal(), nn.initializers.orthogonal()

        def weights(name, init, rows):
            kernel = self.param(
                f"{name}_kernel", named(init, ("embed", "mlp")), (rows, 4 * self.width)
            )
            zeros = named(nn.initializers.zeros, ("mlp",))
            return kernel, self.param(f"{name}_bias", zeros, (4 * self.width,))

        (w, b), (u, d) = weights("input", lecun, width), weights("hidden", orthogonal, self.width)
        state = jnp.zeros((2, batch, self.width), jnp.float32)
        if decode:
            cached = self.variable("cache", "state", lambda: state)
            state = cached.value
        h, state = recur(jnp.swapaxes(x, 0, 1), jnp.concatenate([w, u]), b + d, state)
        if decode:
            cached.value = state
        return constrain(jnp.swapaxes(h, 0, 1), ("batch", "time", "act_embed"))


@jax.custom_vjp
def recur(x: Array, kernel: Array, bias: Array, state: Array) -> tuple[Array, Array]:
    """Hidden states, and the last `state`, which is h and c; gates and c in float32.

    The gradient is written out (Hochreiter & Schmidhuber's truncates it; this is Graves' full
    backpropagation through time, arXiv:1308.0850, appendix): autodiff would keep each gate before
    and after its nonlinearity, and would carry the kernel's gradient through the loop, where here
    it is one product over all times.

    Shapes: x [T, B, D], kernel [D + H, 4H], bias [4H], state [2, B, H] -> [T, B, H], [2, B, H].
    """
    (h, *_), state = _loop(x, kernel, bias, state)
    return h, state


def _loop(x: Array, kernel: Array, bias: Array, state: Array) -> tuple[tuple, Array]:
    """h, c and gates of all times, and the last state."""
    hidden = state.shape[-1]
    # All gates in one pass: s(z) = tanh(z / 2) / 2 + 1 / 2.
    scale = jnp.ones((1, 4, hidden)).at[:, [0, 1, 3]].set(0.5).reshape(1, 4 * hidden)

    def cell(carry, x):
        h, c = carry
        z = jnp.concatenate([x, h], axis=-1) @ kernel + bias[None]
        gates = jnp.tanh(z.astype(jnp.float32) * scale) * scale + (1 - scale)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = f * c + i * g
        h = (o * jnp.tanh(c)).astype(x.dtype)
        return (h, c), (h, c, gates)

    start = state[0].astype(x.dtype), state[1]
    (h, c), every = jax.lax.scan(cell, start, x)
    return every, jnp.stack([h.astype(jnp.float32), c])


def _forward(x: Array, kernel: Array, bias: Array, state: Array):
    every, last = _loop(x, kernel, bias, state)
    return (every[0], last), (x, kernel, state, every)


def _backward(kept, grads):
    x, kernel, state, (h, c, gates) = kept
    dh_all, dlast = grads
    width, transposed = x.shape[-1], kernel.T

    def cell(carry, now):
        dh, dc = carry
        dh_now, c, c_before, gates = now
        dh = dh + dh_now
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        tanh = jnp.tanh(c)
        dc = dc + dh * o * (1 - tanh**2)
        of_gates = [
            dc * g * i * (1 - i),
            dc * c_before * f * (1 - f),
            dc * i * (1 - g**2),
            dh * tanh * o * (1 - o),
        ]
        dz = jnp.concatenate(of_gates, axis=-1).astype(kernel.dtype)
        dinput = dz @ transposed
        return (dinput[:, width:].astype(jnp.float32), dc * f), (dz, dinput[:, :width])

    c_before = jnp.concatenate([state[1:], c[:-1]])
    h_before = jnp.concatenate([state[:1].astype(h.dtype), h[:-1]])
    times = dh_all, c, c_before, gates
    dstate, (dz, dx) = jax.lax.scan(cell, (dlast[0], dlast[1]), times, reverse=True)
    of_kernel = [jnp.einsum("tbi,tbg->ig", inputs, dz) for inputs in (x, h_before)]
    return dx, jnp.concatenate(of_kernel), dz.sum((0, 1)), jnp.stack(dstate)


recur.defvjp(_forward, _backward)
