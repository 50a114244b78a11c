"""Attention against its reference in float64: values and every gradient."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from jaxdl.core.errors import InputError
from jaxdl.kernels.flash_attention import (
    attention_gradients,
    bench,
    cpu,
    few,
    flash_attention,
    seeds_of,
)
from jaxdl.kernels.flash_attention.blocks import CpuBlocks
from jaxdl.parallel import make_mesh, per_shard, scope

EXACT = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
LENGTHS = st.tuples(st.integers(1, 90), st.integers(1, 90))


@pytest.fixture(autouse=True)
def several_small_blocks(monkeypatch):
    # The patch does not reach jit's cache of traces.
    small = {banded: CpuBlocks(32, 16 if banded else 24) for banded in (False, True)}
    monkeypatch.setattr(cpu, "on_cpu", lambda banded, size: small[banded])
    monkeypatch.setattr(few, "MOST", 0)


def arrays(lengths, heads=(2, 1), sizes=(8, 8), dtype="float32", batch=2, **features):
    """q, k, v, and the optional arrays that `features` ask for by a shape, or True."""
    (time, keys), (count, groups) = lengths, heads
    rng = np.random.default_rng(len(features))
    shapes = {
        "q": (batch, time, count, sizes[0]),
        "k": (batch, keys, groups, sizes[0]),
        "v": (batch, keys, groups, sizes[1]),
    }
    found = {n: jnp.asarray(rng.normal(size=shape), dtype) for n, shape in shapes.items()}
    if (spread := features.pop("bias", None)) is not None:
        full = (batch, count, time)
        shape = [1 if one else n for one, n in zip(spread, full, strict=True)]
        bias = jnp.asarray(rng.normal(size=(*shape, keys)), jnp.float32)
        found["bias"] = jnp.where(bias > 1.5, -jnp.inf, bias)
    if features.pop("segments", False):
        for name, n in (("q_segments", time), ("kv_segments", keys)):
            ids = np.sort(rng.integers(0, 4, (batch, n)), 1)
            found[name] = jnp.asarray(ids, jnp.int32)
    if features.get("dropout"):
        found["seeds"] = seeds_of(jax.random.key(1), batch, count)
    return found, features


def everything(given, static, impl, of_lse=1):
    """Value, log-sum-exp, and all gradients under cotangents of both."""
    learned = {name: x for name, x in given.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    rest = {name: x for name, x in given.items() if name not in learned}

    def run(learned):
        return flash_attention(**learned, **rest, **static, return_lse=True, impl=impl)

    (y, lse), pull = jax.vjp(run, learned)
    dy, dlse = (jnp.cos(jnp.arange(x.size)).reshape(x.shape).astype(x.dtype) for x in (y, lse))
    return {"y": y, "lse": lse, **pull((dy, jnp.where(jnp.isneginf(lse), 0, of_lse * dlse)))[0]}


def of_halves(given, static, impl):
    """Value, log-sum-exp and gradients of q, k, v, from two parts of the keys."""
    q, keys = given["q"], given["k"].shape[1]
    along = {"k": 1, "v": 1, "bias": 3, "kv_segments": 1}

    def part(start, stop):
        cut = partial(lax.slice_in_dim, start_index=start, limit_index=stop)
        some = {n: cut(given[n], axis=along[n]) for n in along.keys() & given.keys()}
        runs = jnp.array([[0, q.shape[1], 0], [start, stop - start, 0]])
        offset = static.get("offset", keys - q.shape[1]) - start
        return given | some | static | {"offset": offset, "runs": runs, "impl": impl}

    parts = part(0, keys // 2 + 1), part(keys // 2 + 1, keys)
    values, norms = zip(*(flash_attention(**x, return_lse=True) for x in parts), strict=True)
    lse = jnp.logaddexp(*norms)
    shares = [jnp.exp(x - jnp.where(jnp.isneginf(lse), 0, lse)).swapaxes(1, 2) for x in norms]
    y = sum(x * share[..., None] for x, share in zip(values, shares, strict=True)).astype(q.dtype)
    dy = jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)
    grads = [attention_gradients(**x, y=y, lse=lse, dy=dy) for x in parts]
    (dq, *first), (more, *second) = grads
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    dk, dv = (jnp.concatenate(pair, 1) for pair in zip(first, second, strict=True))
    return {"y": y, "lse": lse, "q": dq + more, "k": dk, "v": dv}


def expected(given, static, of_lse=1):
    """The reference's everything, computed in float64."""
    with jax.enable_x64(True):
        wide = {
            name: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x
            for name, x in given.items()
        }
        found = jax.jit(partial(everything, static=static, impl="reference", of_lse=of_lse))(wide)
        return {name: np.asarray(x) for name, x in found.items()}


def assert_same(found, right, exact):
    for name, x in found.items():
        x, y = np.asarray(x, "float64"), np.asarray(right[name])
        scale = max(1.0, np.abs(y[np.isfinite(y)]).max(initial=0))
        np.testing.assert_allclose(x / scale, y / scale, atol=exact, rtol=0, err_msg=name)


def check(impl="cpu", dtype="float32", **kw):
    given, static = arrays(dtype=dtype, **kw)
    jax.clear_caches()
    found = jax.jit(partial(everything, static=static, impl=impl))(given)
    assert found["y"].dtype == found["q"].dtype == dtype
    assert_same(found, expected(given, static), EXACT[dtype])


def check_halves(impl="cpu", dtype="float32", **kw):
    given, static = arrays(dtype=dtype, **kw)
    jax.clear_caches()
    found = jax.jit(partial(of_halves, static=static, impl=impl))(given)
    assert_same(found, expected(given, static, of_lse=0), EXACT[dtype])


RUNS = np.array([[9, 20, 300], [500, 30, 2]], np.int32)
CASES = {
    "plain": {},
    "causal": {"causal": True},
    "causal, one head of keys for all": {"causal": True, "heads": (4, 1)},
    "causal, from the first key on": {"causal": True, "offset": 0},
    "causal, rows that see nothing": {"causal": True, "lengths": (50, 31)},
    "window": {"window": (7, 3)},
    "causal window, capped": {"causal": True, "window": 9, "soft_cap": 1.5},
    "segments": {"segments": True, "causal": True},
    "bias of heads": {"bias": (True, False, False)},
    "bias of padding": {"bias": (False, True, True), "causal": True},
    "dropout": {"dropout": 0.3, "heads": (4, 2)},
    "dropout by other positions": {"dropout": 0.3, "runs": RUNS, "causal": True},
    "scale and sizes": {"scale": 0.3, "sizes": (7, 5), "heads": (3, 3)},
}


@pytest.mark.row("C-029", "C-030")
@pytest.mark.parametrize("case", CASES)
def test_blocks_are_the_reference_in_float64(case):
    check(**({"lengths": (37, 53)} | CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_few_weights_are_kept_and_are_the_reference_in_float64(case, monkeypatch):
    monkeypatch.undo()
    check(**({"lengths": (37, 53)} | CASES[case]))


HALVES = ["causal, one head of keys for all", "bias of padding", "segments"]
HALVES += ["causal, rows that see nothing"]
HALVES = ["dropout", *(pytest.param(case, marks=pytest.mark.slow) for case in HALVES)]


@pytest.mark.parametrize("most", [0, 2**19])
@pytest.mark.parametrize("case", HALVES)
def test_parts_of_the_keys_make_up_the_whole(case, most, monkeypatch):
    monkeypatch.setattr(few, "MOST", most)
    check_halves(**({"lengths": (37, 53)} | CASES[case]))


@pytest.mark.slow
@pytest.mark.parametrize("most", [0, 2**19])
def test_double_precision_stays_it(most, monkeypatch):
    monkeypatch.setattr(few, "MOST", most)
    given, static = arrays((37, 53), causal=True, heads=(4, 2))
    jax.clear_caches()
    with jax.enable_x64(True):
        wide = {name: x.astype("float64") for name, x in given.items()}
        found = jax.jit(partial(everything, static=static, impl=None))(wide)
        assert_same(found, expected(given, static), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_parts_in_half_precision_are_summed_in_float32(impl):
    check_halves(impl, lengths=(70, 70), causal=True, dtype="bfloat16", heads=(4, 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_summed_in_float32(dtype):
    check(lengths=(70, 70), causal=True, dtype=dtype, heads=(4, 2), dropout=0.2)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=LENGTHS,
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    sizes=st.sampled_from([(8, 8), (5, 3), (16, 1)]),
    dtype=st.sampled_from(list(EXACT)),
    causal=st.booleans(),
    window=st.none() | st.tuples(st.none() | st.integers(0, 40), st.none() | st.integers(0, 9)),
    offset=st.none() | st.integers(-5, 40),
    bias=st.none() | st.tuples(st.booleans(), st.booleans(), st.booleans()),
    segments=st.booleans(),
    soft_cap=st.none() | st.floats(0.5, 5),
    dropout=st.sampled_from([0.0, 0.4]),
)
def test_any_features_together_are_the_reference(**kw):
    check(**kw)


@pytest.mark.row("C-029")
def test_a_row_that_sees_nothing_gives_zeros_and_finite_gradients():
    given, _ = arrays((9, 9), segments=True)
    given["q_segments"] = given["q_segments"].at[:, 3].set(77)
    for impl in ("cpu", "reference"):
        found = everything(given, {}, impl)
        np.testing.assert_array_equal(found["y"][:, 3], 0)
        np.testing.assert_array_equal(found["lse"][:, :, 3], -np.inf)
        assert all(np.isfinite(found[name]).all() for name in "yqkv")
        np.testing.assert_array_equal(found["q"][:, 3], 0)


def test_what_is_hidden_has_no_influence():
    """Poison where nobody looks: behind the diagonal, in other segments, and in padding."""
    given, static = arrays((40, 56), causal=True, segments=True, offset=0)
    poisoned = {**given, "k": given["k"].at[:, 40:].set(jnp.nan)}
    poisoned["v"] = given["v"].at[:, 40:].set(1e30)
    found, right = (everything(x, static, "cpu")["y"] for x in (poisoned, given))
    np.testing.assert_array_equal(found, right)


def test_a_cache_of_keys_continues_what_one_pass_computes():
    given, _ = arrays((30, 30), heads=(4, 2))
    once = flash_attention(**given, causal=True)

    @jax.jit
    def step(q, k, v, start):
        return flash_attention(q, k, v, causal=True, offset=start, impl="cpu")

    for start, stop in ((0, 7), (7, 8), (8, 30)):
        later = jnp.arange(30)[None, :, None, None] >= stop
        k, v = (jnp.where(later, 1e9, given[name]) for name in "kv")
        y = step(given["q"][:, start:stop], k, v, start)
        np.testing.assert_allclose(y, once[:, start:stop], rtol=1e-5, atol=1e-5)


@pytest.mark.row("C-030")
def test_gradients_are_those_of_finite_differences():
    given, static = arrays((5, 6), sizes=(4, 4), batch=1, bias=(True, True, False), soft_cap=2.0)
    given["bias"] = jnp.nan_to_num(given["bias"], neginf=-1.0)
    run = partial(flash_attention, **static, causal=True, impl="cpu")
    check_grads(
        lambda *args: run(*args[:3], bias=args[3]),
        tuple(given.values()),
        **{"order": 1, "modes": ["rev"], "atol": 1e-2, "rtol": 1e-2},
    )


@pytest.mark.row("C-030")
def test_it_works_under_vmap_remat_and_scan():
    given, _ = arrays((20, 20))
    args = tuple(given.values())

    def loss(q, k, v):
        return (flash_attention(q, k, v, causal=True, impl="cpu") ** 2).sum()

    right = jax.grad(loss, (0, 1, 2))(*args)
    pair = [jnp.stack([x, x[::-1]]) for x in args]
    found = jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2))))(*pair)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[0], y, atol=1e-5), found, right)

    def layers(q, k, v):
        @jax.checkpoint
        def layer(x, _):
            return flash_attention(x, k, v, causal=True, impl="cpu"), None

        return (jax.lax.scan(layer, q, None, length=2)[0] ** 2).sum()

    def plain(q, k, v):
        for _ in range(2):
            q = flash_attention(q, k, v, causal=True, impl="reference")
        return (q**2).sum()

    found = jax.jit(jax.grad(layers, (0, 1, 2)))(*args)
    same = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(same, found, jax.grad(plain, (0, 1, 2))(*args))


@pytest.mark.row("C-030")
def test_shards_of_batch_and_heads_are_the_whole_with_the_same_dropout():
    given, _ = arrays((16, 16), heads=(4, 2), batch=4, dropout=0.5)
    names = ("batch", None, "act_heads", None)

    def loss(q, k, v, seeds):
        run = partial(flash_attention, causal=True, dropout=0.5, impl="cpu")
        all_names = [names, names, names, ("batch", "act_heads")]
        y = per_shard(lambda q, k, v, seeds: run(q, k, v, seeds=seeds), all_names, names)(
            q, k, v, seeds
        )
        return (y**2).sum(), y

    def sharded(*args):
        with scope(make_mesh(data=4, model=2), "dp+tp"):
            return jax.grad(loss, (0, 1, 2), has_aux=True)(*args)

    args = tuple(given.values())
    whole = NamedSharding(make_mesh(data=4, model=2), PartitionSpec())
    found = jax.jit(sharded, in_shardings=whole)(*args)
    right = jax.grad(loss, (0, 1, 2), has_aux=True)(*args)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (2, 3, 4)}, r"without a batch, give it one of 1"),
        ({"k": (2, 5, 2, 9)}, r"disagree; .* k \(2, 5, 2, 8\) would fit"),
        ({"q": (2, 3, 3, 8)}, "3 heads of queries are no multiple of 2 of keys; 1 would be"),
        ({"bias": (2, 4, 3, 1)}, r"bias .* does not fit .*; \(2, 4, 3, 5\) would"),
        ({"q_segments": (2, 3)}, "come together"),
        ({"dropout": 0.5}, "needs seeds: seeds_of"),
        ({"dropout": 1.0}, r"must lie in \[0, 1\)"),
        ({"soft_cap": -1.0}, "must be above 0, or None"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    shapes = {"q": (2, 3, 4, 8), "k": (2, 5, 2, 8), "v": (2, 5, 2, 8)} | change
    args = {n: jnp.ones(x) if isinstance(x, tuple) else x for n, x in shapes.items()}
    with pytest.raises(InputError, match=message):
        flash_attention(**args)


@pytest.mark.row("C-029")
def test_memory_is_linear_in_the_length(monkeypatch):
    monkeypatch.undo()

    def temp(time):
        x = jax.ShapeDtypeStruct((1, time, 2, 16), jnp.float32)
        loss = jax.grad(lambda q, k, v: flash_attention(q, k, v, causal=True).sum(), (0, 1, 2))
        return jax.jit(loss).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temp(16384) < 2.5 * temp(8192) < 2**26


def test_memory_on_a_cpu_is_at_most_a_fifth_of_the_naive(monkeypatch):
    monkeypatch.undo()
    runs = bench.in_jax(1024, causal=False, names=("ours", "naive"))
    assert 5 * runs["ours"][1] <= runs["naive"][1]
