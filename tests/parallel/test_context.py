import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.kernels.flash_attention import DropWeights, few, seeds_of
from jaxdl.nn import Attention, attend
from jaxdl.parallel import context_parallel, make_mesh, scope, unbox
from jaxdl.plan import devices
from jaxdl.plan.hlo import runs

B, T, H, K = 4, 16, 8, 4
ALL = [
    (mesh, causal)
    for mesh in ({"seq": 2, "data": 4}, {"seq": 4, "model": 2}, {"seq": 8})
    for causal in (True, False)
]
CASES = [
    pytest.param(*c, marks=() if i in (0, 3, 4) else pytest.mark.slow) for i, c in enumerate(ALL)
]


@cache
def inputs(groups):
    """Queries, keys, values, and a cotangent of the result."""
    keys = jax.random.split(jax.random.key(groups), 4)
    heads = (H, groups, groups, H)
    return tuple(jax.random.normal(k, (B, T, n, K)) for k, n in zip(keys, heads, strict=True))


DROP = DropWeights(0.5, seeds_of(jax.random.key(9), B, H))


def with_gradients(fn, *args):
    def loss(q, k, v):
        y = fn(q, k, v)
        return (y * args[3]).sum(), y

    grads, y = jax.grad(loss, (0, 1, 2), has_aux=True)(*args[:3])
    return y, *grads


def compiled(mesh, rules, fn, *args):
    """`fn` with gradients, of arguments whose positions lie as the strategy says."""
    mesh = make_mesh(**mesh)

    def scoped(*args):
        with scope(mesh, rules):
            return with_gradients(fn, *args)

    lies = NamedSharding(mesh, PartitionSpec("data", "seq", "model"))
    return jax.jit(scoped, in_shardings=lies, out_shardings=lies).lower(*args).compile()


def check(mesh, rules, groups, causal, mask=None, drop=None):
    args = inputs(groups)
    at_once = partial(attend, mask=mask, drop=drop, causal=causal)
    divided = partial(context_parallel, attend, mask=mask, drop=drop, causal=causal)
    found = compiled(mesh, rules, divided, *args)
    expected = jax.jit(partial(with_gradients, at_once))(*args)
    for a, b in zip(found(*jax.device_put(args, found.input_shardings[0])), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return found.as_text()


def collectives(text):
    return set(re.findall(r"(all-gather|all-to-all|collective-permute|all-reduce)[-\w]*\(", text))


@pytest.mark.parametrize(("mesh", "causal"), CASES, ids=str)
def test_a_ring_is_attention_and_gathers_nothing(mesh, causal):
    assert collectives(check(mesh, "dp+tp+cp", 2, causal)) == {"collective-permute"}


@pytest.mark.parametrize(("mesh", "causal"), CASES, ids=str)
def test_heads_for_positions_are_attention_and_gather_nothing(mesh, causal):
    assert collectives(check(mesh, "dp+tp+ulysses", 2, causal)) == {"all-to-all"}


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["cp", "ulysses"])
def test_an_axis_that_divides_nothing_changes_nothing(rules):
    check({"seq": 2, "data": 4}, rules, 2, causal=True)


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["dp+tp+cp", "dp+ulysses"])
def test_half_precision_is_put_together_in_float32(rules):
    args = inputs(2)
    divided = partial(context_parallel, attend, causal=True)
    half = tuple(x.astype(jnp.bfloat16) for x in args)
    found = compiled({"seq": 8}, rules, divided, *half)
    expected = jax.jit(partial(with_gradients, partial(attend, causal=True)))(*args)
    for a, b in zip(found(*jax.device_put(half, found.input_shardings[0])), expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype("float32"), b, atol=2e-2 * np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["dp+cp", "dp+ulysses"])
def test_layers_under_remat_and_scan_are_those_of_one_device(rules):
    def layers(attention, q, k, v):
        layer = jax.checkpoint(lambda x, _: (x + attention(x, k, v, causal=True), None))
        return jax.lax.scan(layer, q, None, length=2)[0]

    args = inputs(2)
    divided = partial(layers, partial(context_parallel, attend))
    found = compiled({"seq": 4, "data": 2}, rules, divided, *args)
    expected = jax.jit(partial(with_gradients, partial(layers, attend)))(*args)
    for a, b in zip(found(*jax.device_put(args, found.input_shardings[0])), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


KEYS = np.arange(T)
VISIBLE = np.stack([KEYS < 16, KEYS < 9, KEYS >= 3, KEYS < 0])  # padded behind, and before
PADDING = np.broadcast_to(VISIBLE[:, None, None], (B, 1, T, T))
PER_HEAD = jax.random.bernoulli(jax.random.key(5), 0.4, (1, H, T, T))


@pytest.mark.parametrize(
    ("rules", "causal", "mask"),
    [
        ("dp+tp+cp", True, PADDING),
        ("dp+tp+ulysses", True, PER_HEAD),
        pytest.param("dp+tp+cp", True, PADDING[:, :, :1], marks=pytest.mark.slow),
        pytest.param("dp+tp+cp", False, PER_HEAD, marks=pytest.mark.slow),
        pytest.param("dp+tp+ulysses", False, PADDING, marks=pytest.mark.slow),
    ],
    ids=["ring-padding", "all_to_all-heads", "ring-keys", "ring-heads", "all_to_all-padding"],
)
def test_masks_and_dropout_fall_on_the_same_weights(rules, causal, mask):
    check({"data": 2, "seq": 2, "model": 2}, rules, 8, causal, mask, DROP)


@pytest.mark.slow
def test_blocks_of_weights_that_are_not_few_are_masked_and_dropped_alike(monkeypatch):
    jax.clear_caches()
    monkeypatch.setattr(few, "MOST", 0)
    check({"data": 2, "seq": 2, "model": 2}, "dp+tp+cp", 8, True, PER_HEAD, DROP)


@pytest.mark.slow
@pytest.mark.row("C-030")
@pytest.mark.parametrize("mask", [None, PADDING], ids=["all keys", "some see nothing"])
def test_gradients_of_gradients_of_a_ring_are_those_of_one_device(mask):
    def twice(fn, q, k, v):
        def first(*args):
            grads = jax.grad(lambda *args: (fn(*args) ** 2).sum(), (0, 1, 2))(*args)
            return sum(jnp.sin(x).sum() for x in grads)

        return jax.grad(first, (0, 1, 2))(q, k, v)

    def divided(*args):
        with scope(make_mesh(seq=8), "cp"):
            return twice(partial(context_parallel, attend, mask=mask, causal=True), *args)

    args = inputs(2)[:3]
    found = jax.jit(divided, in_shardings=NamedSharding(make_mesh(seq=8), PartitionSpec()))(*args)
    expected = jax.jit(partial(twice, partial(attend, mask=mask, causal=True)))(*args)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("target", "call", "kernels"),
    [
        pytest.param("v5e:2x4", "tpu_custom_call", 2, marks=pytest.mark.tpu_aot),
        pytest.param("h200:8", "__gpu$xla.gpu.triton", 3, marks=pytest.mark.gpu_aot),
    ],
)
def test_absent_accelerators_run_kernels_while_blocks_travel(target, call, kernels, causal):
    mesh, time, heads = make_mesh(devices(target), seq=8), 32768, (8, 4, 4, 8)

    def run(*args):
        with scope(mesh, "cp"):
            return with_gradients(partial(context_parallel, attend, causal=causal), *args)

    lies = NamedSharding(mesh, PartitionSpec(None, "seq"))
    shapes = [jax.ShapeDtypeStruct((1, time, n, 128), jnp.bfloat16, sharding=lies) for n in heads]
    found = jax.jit(run, out_shardings=lies).lower(*shapes).compile()
    text, call = found.as_text(), f'custom_call_target="{call}"'
    # A block of another device has two forms, of which a device runs one.
    assert runs(text, call) == kernels * (1 + 7 * (2 if causal else 1))
    assert collectives(text) == {"collective-permute"}
    loops = [x for x in text.split("\n\n") if "permute-start(" in x and "ENTRY" not in x]
    assert len(loops) == 2
    for loop in loops:
        start, done = (loop.index(f" collective-permute-{x}(") for x in ("start", "done"))
        assert start < loop.index(" conditional(" if causal else call) < done
    # The logits of two chunks that meet would take 256 MiB, or 512 of two whole devices.
    assert found.memory_analysis().temp_size_in_bytes < 128 * 2**20


@pytest.mark.parametrize("rules", ["dp+cp", "dp+ulysses"])
def test_the_layer_drops_the_same_weights_as_on_one_device(rules):
    x = inputs(H)[0][:2, :8].reshape(2, 8, -1)
    layer = Attention(4, causal=True, dropout=0.5, kv_heads=2)
    variables = unbox(jax.jit(layer.init)(jax.random.key(0), x))

    def apply(x):
        return layer.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})

    def divided(x):
        with scope(make_mesh(data=2, seq=4), rules):
            return apply(x)

    whole = NamedSharding(make_mesh(data=2, seq=4), PartitionSpec())
    np.testing.assert_allclose(
        jax.jit(divided, in_shardings=whole)(x), jax.jit(apply)(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("rules", "shape", "message"),
    [
        ("cp", (1, 24, 8, 4), r"over 8 .* 24 positions .* 16 chunks.*; 32 positions would"),
        ("ulysses", (1, 16, 6, 4), "each of 8 devices as many of 6 heads.*; 2 devices would"),
    ],
)
def test_what_does_not_divide_is_named(rules, shape, message):
    q = jnp.ones(shape)
    with scope(make_mesh(seq=8), rules), pytest.raises(InputError, match=message):
        context_parallel(attend, q, q, q, causal=True)
