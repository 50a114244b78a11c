"""The loss of a linear layer against float64, forward and every gradient, whole and divided."""

import math
import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.errors import InputError
from jaxdl.core.topology import devices, shapes_on
from jaxdl.kernels.linear_cross_entropy import chunked, linear_cross_entropy
from jaxdl.losses import cross_entropy
from jaxdl.models.gpt import GPT
from jaxdl.models.lstm import LSTMLanguageModel
from jaxdl.parallel import make_mesh, scope, spread_vocabulary, unbox
from jaxdl.tasks import LanguageModel

EXACT = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
OPTIONS = {
    "plain": {},
    "padded": {"vocab": 29},
    "all": {"vocab": 29, "z": 1e-2, "smoothing": 0.1, "cap": 2.0},
}


def arrays(lead=(3, 7), features=11, tokens=37, dtype="float32", tied=True):
    """x, w, bias, weights, and labels, of which half are hits.

    Every third token weighs nothing, and its x is infinite.
    """
    rng, count = np.random.default_rng(0), np.arange(np.prod(lead)).reshape(lead)
    weights = rng.uniform(0.5, 1.5, lead) * (count % 3 > 0)
    finite, w = rng.normal(size=(*lead, features)), rng.normal(size=(tokens, features))
    bias = rng.normal(size=tokens)
    best = (finite @ w.T + bias)[..., :29].argmax(-1)
    labels = np.where(count % 2, best, rng.integers(0, 29, lead))
    x = np.where(weights[..., None] > 0, finite, np.inf)
    values = (x, dtype), (w if tied else w.T, dtype), (bias, "float32"), (weights, "float32")
    return tuple(jnp.asarray(*pair) for pair in values), jnp.asarray(labels)


def oracle(values, labels, tied, vocab=None, z=0.0, smoothing=0.0, cap=0.0):
    """Total, hits and the four gradients in float64, by hand."""
    x, w, bias, weights = (np.float64(a) for a in values)
    w = w.T if tied else w
    vocab = vocab or w.shape[1]
    flat = np.where(weights.reshape(-1, 1) > 0, x.reshape(-1, x.shape[-1]), 0)
    weights, labels = weights.reshape(-1), np.asarray(labels).reshape(-1)
    logits = flat @ w + bias
    slope = 1.0
    if cap:
        logits = cap * np.tanh(logits / cap)
        slope = 1 - np.square(logits / cap)
    logits[:, vocab:] = -np.inf
    log_z = np.log(np.exp(logits).sum(-1))
    target = (1 - smoothing) * np.eye(w.shape[1])[labels] + smoothing / vocab
    target[:, vocab:] = 0
    rows = log_z - (target * np.where(target > 0, logits, 0)).sum(-1) + z * log_z**2
    p = np.exp(logits - log_z[:, None])
    dy = weights[:, None] * ((1 + 2 * z * log_z)[:, None] * p - target) * slope
    dy[:, vocab:] = 0
    dw = flat.T @ dy
    hits = ((logits.argmax(-1) == labels) & (weights > 0)).sum()
    gradients = (dy @ w.T).reshape(x.shape), dw.T if tied else dw, dy.sum(0)
    return (weights * rows).sum(), hits, (*gradients, rows.reshape(values[3].shape))


def run(values, labels, **options):
    """Total, hits and the gradients of 3 times the total."""

    def total(x, w, bias, weights):
        found = linear_cross_entropy(x, w, labels, bias=bias, weights=weights, **options)
        return 3 * found.total, found

    gradient = jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)
    (_, found), gradients = gradient(*values)
    return found.total, found.hits, gradients


def check(found, expected, values, tolerance):
    assert found[1] == expected[1]
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    for mine, theirs, value in zip(found[2], expected[2], values, strict=True):
        assert mine.dtype == value.dtype and mine.shape == value.shape
        scale = 3 * np.abs(theirs).max() or 1
        np.testing.assert_allclose(np.float64(mine) / scale, 3 * theirs / scale, atol=tolerance)


@settings(max_examples=8)
@given(
    st.sampled_from(list(OPTIONS)),
    st.sampled_from(list(EXACT)),
    st.booleans(),
    st.sampled_from([None, 1, 5, 8]),
    st.sampled_from([(1,), (21,), (3, 7)]),
    st.sampled_from([8, 2**20]),
)
def test_value_and_every_gradient_are_those_of_float64(options, dtype, tied, rows, lead, tile):
    with mock.patch.object(chunked, "CPU_TILE", tile):
        check_sweep(options, dtype, tied, rows, lead)


def check_sweep(options, dtype, tied, rows, lead):
    values, labels = arrays(lead, dtype=dtype, tied=tied)
    options = OPTIONS[options]
    found = jax.jit(partial(run, tied=tied, rows=rows, **options))(values, labels)
    expected = oracle(values, labels, tied, **options)
    if dtype == "float32":
        check(found, expected, values, EXACT[dtype])
    else:
        check((found[0], expected[1], found[2]), expected, values, EXACT[dtype])


@pytest.mark.parametrize("options", OPTIONS)
def test_all_logits_at_once_give_the_same(options):
    values, labels = arrays()
    both = (
        jax.jit(partial(run, tied=True, rows=4, impl=impl, **OPTIONS[options]))(values, labels)
        for impl in ("chunked", "reference")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *both)


def test_it_is_the_cross_entropy_of_the_losses():
    (x, w, bias, weights), labels = arrays()
    options = {"z": 1e-3, "smoothing": 0.2}
    x = jnp.where(weights[..., None] > 0, x, 0)
    expected = cross_entropy(x @ w.T + bias[None, None], labels, mask=weights, **options)
    found = linear_cross_entropy(x, w, labels, bias=bias, weights=weights, tied=True, **options)
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-6)


def test_it_works_under_vmap_remat_scan_and_twice():
    (x, w, _, weights), labels = arrays((2, 5))
    x, weights = jnp.where(weights[..., None] > 0, x, 0), jnp.ones_like(weights)

    def everything(loss, x, w):
        one = jax.vmap(jax.checkpoint(loss), (0, None, 0))(x, w, labels).sum()
        two, _ = jax.lax.scan(
            lambda c, _: (c + jnp.sin(loss(c * x, w, labels)), None), 0.1, None, 2
        )
        return one + two

    def penalty(loss, x, w):
        return jnp.square(jax.grad(loss)(x, w, labels)).sum()

    def ours(x, w, labels):
        return linear_cross_entropy(x, w, labels, tied=True, rows=2).total

    def naive(x, w, labels):
        return cross_entropy(x @ w.T, labels).total

    for outer in (everything, penalty):
        mine, theirs = (
            jax.jit(jax.grad(partial(outer, loss), argnums=(0, 1)))(x, w) for loss in (ours, naive)
        )
        for a, b in zip(mine, theirs, strict=True):
            scale = np.abs(b).max()
            np.testing.assert_allclose(a / scale, b / scale, atol=2e-5)


@pytest.mark.parametrize(
    ("sizes", "rules"),
    [
        ({"data": 2, "fsdp": 2, "model": 2}, "auto"),
        ({"model": 8}, "tp+sp"),
        ({"data": 2, "seq": 2, "model": 2}, "auto"),
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "free"])
def test_a_vocabulary_over_devices_gives_the_same(sizes, rules, tied, monkeypatch):
    if tied:  # in tiles of 3 tokens
        monkeypatch.setattr(chunked, "CPU_TILE", 15)
    values, labels = arrays((4, 6), tokens=40, tied=tied)
    mesh = make_mesh(**sizes)

    def divided(values, labels):
        with scope(mesh, rules):
            spread = spread_vocabulary(tied=tied)
            return run(values, labels, tied=tied, rows=5, spread=spread, **OPTIONS["all"])

    with jax.set_mesh(mesh):
        found = jax.jit(divided)(values, labels)
    check(found, oracle(values, labels, tied, **OPTIONS["all"]), values, 1e-5)


ROWS, TOKENS, WIDTH = (4096, 16384), 262144, 64
ON_CPU = [("cpu", 1), ("cpu", 4)]
ON_TPU = [("v5e:1x1", 1), ("v5e:2x2", 4)]
COLLECTIVE = re.compile(r"= \(?(.*?)\)? (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(")


def compiled(target, shards, count, tokens):
    """Value and gradients, with the vocabulary divided over so many devices."""
    mesh = make_mesh((jax.devices() if target == "cpu" else devices(target))[:shards], model=shards)
    specs = ((count, WIDTH), ()), ((tokens, WIDTH), ("model",)), ((count,), ())
    x, table, labels = (
        jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for (shape, spec), kind in zip(specs, (jnp.bfloat16, jnp.bfloat16, jnp.int32), strict=True)
    )

    def loss(x, table, labels):
        with scope(mesh, "auto"):
            spread = spread_vocabulary(tied=True)
            given = x[None], table, labels[None]
            return linear_cross_entropy(*given, tied=True, spread=spread).total

    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(x, table, labels).compile()


def check_memory(target, shards):
    few, many = (
        compiled(target, shards, count, TOKENS).memory_analysis().temp_size_in_bytes
        for count in ROWS
    )
    # Of each row only a few numbers for its features; its logits would be 1 MB.
    assert many - few < 4 * 4 * WIDTH * (ROWS[1] - ROWS[0])


@pytest.mark.parametrize(("target", "shards"), ON_CPU)
def test_memory_has_no_term_of_rows_times_tokens(target, shards):
    check_memory(target, shards)


@pytest.mark.tpu_aot
@pytest.mark.parametrize(("target", "shards"), ON_TPU)
def test_memory_on_a_tpu_has_no_term_of_rows_times_tokens(target, shards):
    check_memory(target, shards)


def check_collectives(target):
    """Between devices go numbers of rows, and once the gradient of the features."""
    count = ROWS[0]
    found = COLLECTIVE.findall(compiled(target, 4, count, TOKENS).as_text())
    assert found and {kind for _, kind in found} == {"all-reduce"}
    sizes = [
        math.prod(int(n) for n in shape.split(",") if n)
        for shapes, _ in found
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]
    assert sizes.count(count * WIDTH) == 1
    assert all(size <= count for size in sizes if size != count * WIDTH)


def test_a_divided_vocabulary_sends_numbers_of_rows_alone():
    check_collectives("cpu")


@pytest.mark.tpu_aot
def test_a_divided_vocabulary_sends_numbers_of_rows_alone_on_a_tpu():
    check_collectives("v5e:2x2")


MODEL = GPT(vocab=29, width=16, depth=1, heads=2, seq=8, pad_vocab=16, dropout=0.1)
BATCH = {
    "tokens": jax.random.randint(jax.random.key(1), (4, 9), 0, 29),
    "mask": jnp.array([1.0, 1.0, 0.0, 1.0]),
    "token_mask": jnp.ones((4, 8)).at[:, 6:].set(0),
}


def test_a_language_model_learns_the_same_without_logits():
    key = jax.random.key(0)
    shapes = unbox(jax.eval_shape(MODEL.init, key, BATCH["tokens"][:, :-1])["params"])
    params = jax.tree.map(lambda a: jax.random.normal(key, a.shape) / 4, shapes)

    def everything(task, params):
        def loss(params):
            sums, _ = task.players(MODEL)[0].loss(params, {}, BATCH, key)
            return sums.total, sums.weight

        metrics = task.evaluate(MODEL, params, {}, BATCH, key)
        return jax.value_and_grad(loss, has_aux=True)(params), metrics

    both = [
        jax.jit(partial(everything, LanguageModel(z_loss=0.1, fused=fused)))(params)
        for fused in (True, False)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *both)


def test_a_model_that_is_not_lazy_is_named():
    model = LSTMLanguageModel(vocab=29, width=4, hidden=4)
    (player,) = LanguageModel(fused=True).players(model)
    with pytest.raises(InputError, match=r"LSTMLanguageModel is not; set task\.fused=False"):
        player.loss({}, {}, BATCH, jax.random.key(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": jnp.ones((11, 37))}, r"w has shape \(11, 37\)"),
        ({"labels": jnp.ones((3, 6), int)}, r"labels has shape \(3, 6\)"),
        ({"labels": jnp.ones((3, 7))}, "labels are float32"),
        ({"vocab": 38}, "vocab=38, but w has 37 tokens"),
        ({"impl": "gpu"}, "no impl='gpu'"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    (x, w, _, _), labels = arrays()
    with pytest.raises(InputError, match=message):
        linear_cross_entropy(**{"x": x, "w": w, "labels": labels, "tied": True} | change)


@pytest.mark.tpu_aot
def test_it_compiles_for_tpus_with_less_memory():
    x, w = (jax.ShapeDtypeStruct((n, 768), jnp.bfloat16) for n in (8192, 50304))
    labels = jax.ShapeDtypeStruct((8192,), jnp.int32)
    x, w, labels = shapes_on(devices("v5e:1x1")[0], (x, w, labels))

    def loss(x, w, labels, impl):
        return linear_cross_entropy(x, w, labels, tied=True, impl=impl).total

    memory = {
        impl: jax.jit(jax.value_and_grad(partial(loss, impl=impl), argnums=(0, 1)))
        .lower(x, w, labels)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for impl in ("chunked", "reference")
    }
    assert memory["chunked"] < 0.5 * memory["reference"]


@pytest.mark.parametrize("impl", ["chunked", "reference"])
@pytest.mark.parametrize("label", [-1, 8, 10])
def test_a_label_that_is_no_token_is_no_number_unless_its_weight_is_0(label, impl):
    x, w = jnp.ones((2, 3)), jnp.ones((3, 10))
    labels = jnp.array([label, 2])
    totals = [
        linear_cross_entropy(x, w, labels, weights=jnp.array([weight, 1.0]), vocab=8, impl=impl)[0]
        for weight in (1.0, 0.0)
    ]
    assert jnp.isnan(totals[0])
    assert totals[1] == pytest.approx(np.log(8), rel=1e-6)
