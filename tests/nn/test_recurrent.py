import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.nn.recurrent import recur

TIME, BATCH, WIDTH, HIDDEN = 9, 3, 5, 7
SHAPES = (TIME, BATCH, WIDTH), (WIDTH + HIDDEN, 4 * HIDDEN), (4 * HIDDEN,), (2, BATCH, HIDDEN)
KEYS = jax.random.split(jax.random.key(0), 4)
ARGS = tuple(jax.random.normal(key, shape) for key, shape in zip(KEYS, SHAPES, strict=True))


def plain(x, kernel, bias, state):
    """The equations, one time after the other."""
    (h, c), out = state, []
    for now in x:
        z = jnp.concatenate([now, h], axis=-1) @ kernel + bias[None]
        i, f, g, o = jnp.split(z, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        out.append(h)
    return jnp.stack(out), jnp.stack([h, c])


def test_the_loop_and_its_gradients_are_those_of_the_equations():
    weights = jnp.linspace(-1, 1, TIME * BATCH * HIDDEN).reshape(TIME, BATCH, HIDDEN)

    def both(fn):
        def loss(*args):
            h, state = fn(*args)
            return (weights * h).sum() + (state**2).sum()

        return jax.jit(jax.value_and_grad(loss, range(4)))(*ARGS)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, both(recur), both(plain))


def test_in_bf16_the_state_is_kept_in_float32_and_gradients_take_the_type_of_their_argument():
    x, kernel, bias, state = ARGS
    half = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), bias.astype(jnp.bfloat16), state
    h, last = jax.jit(recur)(*half)
    assert h.dtype == jnp.bfloat16 and last.dtype == jnp.float32
    np.testing.assert_allclose(h.astype(jnp.float32), plain(*ARGS)[0], atol=0.05)
    loss = lambda *args: recur(*args)[0].astype(jnp.float32).sum()  # noqa: E731
    grads = jax.eval_shape(jax.grad(loss, range(4)), *half)
    assert [g.dtype for g in grads] == [a.dtype for a in half]
