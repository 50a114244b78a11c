import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.core.errors import InputError
from jaxdl.core.part import Part
from jaxdl.nn import Stack, batch_norm, dense, dropout
from jaxdl.parallel import make_mesh, scope

KEY, DEPTH = jax.random.key(0), 3
X = jax.random.normal(KEY, (4, 8))


class Layer(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, *, train=False):
        y = jnp.tanh(dense(x.shape[-1], name="dense")(batch_norm(train, name="norm")(x)))
        return x + dropout(self.rate, train)(y)


def run(apply, variables):
    """Loss, new statistics and gradients in training mode."""

    def loss(params):
        y, new = apply({**variables, "params": params})
        return (y**2).sum(), new

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def scanned(stack):
    keys = {"dropout": jax.random.key(1)}
    return lambda v: stack.apply(v, X, train=True, mutable=["batch_stats"], rngs=keys)


def unrolled(variables):
    x, states = X, []
    for i in range(DEPTH):
        one = {
            kind: jax.tree.map(lambda a, i=i: a[i], tree["layers"])
            for kind, tree in variables.items()
        }
        x, state = Layer().apply(one, x, train=True, mutable=["batch_stats"])
        states.append(state["batch_stats"])
    return x, {"batch_stats": {"layers": jax.tree.map(lambda *a: jnp.stack(a), *states)}}


def test_a_stack_is_the_unrolled_loop_in_loss_statistics_and_gradients():
    stack = Stack(Part(Layer), DEPTH)
    variables = nn.unbox(jax.jit(stack.init)(KEY, X))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    loop = jax.jit(lambda v: run(unrolled, v))(variables)
    jax.tree.map(close, jax.jit(lambda v: run(scanned(stack), v))(variables), loop)


@pytest.mark.row("C-015", "X-029")
@pytest.mark.parametrize(("remat", "segment"), [("full", 1), ("full", 3), ("dots", 2)])
def test_remat_changes_no_bit_of_loss_statistics_and_gradients(remat, segment):
    block, depth = Part(Layer, rate=0.5), 6
    plain, saving = Stack(block, depth), Stack(block, depth, remat, segment)
    boxed = jax.jit(plain.init)(KEY, X)
    assert jax.eval_shape(saving.init, KEY, X) == jax.eval_shape(plain.init, KEY, X)
    found, expected = (
        jax.jit(lambda v, stack=stack: run(scanned(stack), v))(nn.unbox(boxed))
        for stack in (saving, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class Linear(nn.Module):
    """What the checklist's 100 layers are made of."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.relu(dense(1000, name="linear")(x))


@pytest.mark.row("C-015", "X-029", "X-030")
def test_segments_of_sqrt_n_layers_halve_the_memory_of_100_layers():
    x = jax.ShapeDtypeStruct((1024, 1000), jnp.float32)

    def temporaries(stack):
        params = nn.unbox(jax.eval_shape(stack.init, KEY, x))
        grad = jax.grad(lambda params, x: stack.apply(params, x).sum())
        return jax.jit(grad).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    plain, segments = Stack(Part(Linear), 100), Stack(Part(Linear), 100, "full", 10)
    assert temporaries(segments) <= 0.5 * temporaries(plain)


def test_where_loops_are_slow_the_layers_are_written_out_up_to_a_bound():
    def loops(depth, **kw):
        stack = Stack(Part(Layer), depth, **kw)

        def apply(x):
            with scope(make_mesh(jax.devices()[:1]), "dp"):
                return stack.apply(variables, x)

        variables = jax.eval_shape(stack.init, KEY, X)
        variables = jax.tree.map(lambda s: jnp.zeros(s.shape), nn.unbox(variables))
        return jax.jit(apply).lower(X).as_text().count("stablehlo.while")

    assert loops(4) == 0
    assert loops(26) == loops(4, remat="full") == 1


def test_layers_are_named_start_apart_and_drop_apart():
    stack = Stack(Part(Layer, rate=0.5), DEPTH)
    boxed = jax.jit(stack.init)(KEY, X)
    kernel = boxed["params"]["layers"]["dense"]["kernel"]
    assert kernel.names == ("layers", "embed", "mlp")
    assert kernel.value.shape == (DEPTH, 8, 8)
    assert not jnp.array_equal(kernel.value[0], kernel.value[1])
    variables, keys = nn.unbox(boxed), {"dropout": jax.random.key(1)}
    # With equal layers that add a constant, only the masks can differ.
    same = jax.tree.map(jnp.zeros_like, variables["params"])
    same["layers"]["dense"]["bias"] += 1.0
    y = stack.apply(
        variables | {"params": same},
        jnp.zeros((64, 8)),
        train=True,
        rngs=keys,
        mutable=["batch_stats"],
    )[0]
    assert len(jnp.unique(jnp.round(y / (2 * jnp.tanh(1.0))))) == DEPTH + 1


@pytest.mark.parametrize(
    ("stack", "says"),
    [
        (Stack(Part(Layer), 2, "ful"), "unknown remat 'ful'; did you mean 'full'"),
        (Stack(Part(Layer), 0), "depth=0 must be at least 1"),
        (Stack(Part(Layer), 12, "full", 5), r"segment=5 .* depth=12; .* \[1, 2, 3, 4, 6, 12\]"),
        (Stack(Part(Layer), 4, segment=2), "segment=2 recomputes nothing .*remat='full'"),
    ],
)
def test_what_cannot_be_stacked_is_refused(stack, says):
    with pytest.raises(InputError, match=says):
        stack.init(KEY, X)


def test_layers_run_in_parts_by_their_own_keys():
    """What a pipeline makes of a Stack: the first layers somewhere, the others elsewhere."""
    stack = Stack(Part(Layer, rate=0.5), 4)
    variables, rngs = nn.unbox(jax.jit(stack.init)(KEY, X)), {"dropout": jax.random.key(1)}
    whole, _ = stack.apply(variables, X, train=True, rngs=rngs, mutable=["batch_stats"])
    (keys,) = jax.tree.leaves(
        nn.apply(lambda s: jax.random.split(s.make_rng("dropout"), 4), stack)({}, rngs=rngs)
    )
    x = X
    for part in (slice(0, 3), slice(3, 4)):
        half, layers = (
            Stack(stack.block, len(keys[part])),
            jax.tree.map(lambda p, part=part: p[part], variables),
        )
        x, _ = half.apply(
            layers, x, train=True, keys={"dropout": keys[part]}, mutable=["batch_stats"]
        )
    np.testing.assert_allclose(x, whole, rtol=1e-6)
