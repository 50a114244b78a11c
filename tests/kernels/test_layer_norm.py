"""Layer and RMS normalisation against float64, forward and every gradient, on every platform."""

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from jaxdl.core.errors import InputError
from jaxdl.core.topology import devices, shapes_on
from jaxdl.kernels.absent_tpu import KINDS
from jaxdl.kernels.dispatch import recording, strict
from jaxdl.kernels.layer_norm import gpu, layer_norm, reference, rms_norm, tpu
from jaxdl.kernels.layer_norm.blocks import GpuBlocks, TpuBlocks, row
from jaxdl.kernels.layer_norm.reference import Norm
from jaxdl.nn import LayerNorm
from jaxdl.parallel import make_mesh, scope, unbox

EXACT = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
SHAPES = [(7, 33), (3, 5, 128), (1, 1), (260, 100), (2, 3, 4, 5)]
NAMES = ("x", "residual", "scale", "bias", "dy", "dh")


def arrays(shape, dtype="float32"):
    """x, residual, scale, bias, and cotangents of y and h."""
    rng = np.random.default_rng(sum(shape))
    wide = [3 * rng.normal(size=shape) + 1, rng.normal(size=shape)]
    weights = [1 + 0.5 * rng.normal(size=shape[-1:]), rng.normal(size=shape[-1:])]
    cotangents = [rng.normal(size=shape) for _ in range(2)]
    rows = [jnp.asarray(a, dtype) for a in (*wide, *cotangents)]
    return (*rows[:2], *(jnp.asarray(a, jnp.float32) for a in weights), *rows[2:])


def oracle(center, eps, x, residual, scale, bias, dy, dh):
    """y, h and the cotangents of all arguments, in float64; h is rounded as the sum is."""
    h = np.float64(x if residual is None else x + residual)
    scale, bias = np.float64(scale), 0.0 if bias is None else np.float64(bias)
    dy, dh = np.float64(dy), 0.0 if dh is None else np.float64(dh)
    mean = h.mean(-1, keepdims=True) * center
    rate = 1 / np.sqrt(np.square(h - mean).mean(-1, keepdims=True) + eps)
    unit, dunit, rows = (h - mean) * rate, dy * scale, tuple(range(h.ndim - 1))
    dx = dunit - unit * (dunit * unit).mean(-1, keepdims=True)
    dx = rate * (dx - center * dunit.mean(-1, keepdims=True)) + dh
    return unit * scale + bias, h, dx, (dy * unit).sum(rows), dy.sum(rows)


def close(found, expected, tolerance, label=""):
    found, expected = np.float64(found), np.float64(expected)
    size = max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(found / size, expected / size, atol=tolerance, err_msg=label)


def run(center, with_residual, with_bias, values, **options):
    """y, h and gradients (dx, dresidual, dscale, dbias) of the public function."""
    x, residual, scale, bias, dy, dh = values
    given = {"x": x, "scale": scale}
    given |= {"residual": residual} if with_residual else {}
    given |= {"bias": bias} if with_bias and center else {}

    def apply(given):
        found = (layer_norm if center else rms_norm)(**given, eps=1e-5, **options)
        return found if with_residual else (found, given["x"])

    (y, h), pull = jax.vjp(apply, given)
    grads = pull((dy.astype(y.dtype), dh if with_residual else jnp.zeros_like(x)))[0]
    return y, h, grads


def check(center, with_residual, with_bias, values, found, dtype):
    x, residual, scale, bias, dy, dh = values
    y, h, grads = found
    hidden = (residual, dh) if with_residual else (None, None)
    shift = bias if with_bias and center else None
    *expected, dx, dscale, dbias = oracle(center, 1e-5, x, hidden[0], scale, shift, dy, hidden[1])
    for name, mine, theirs in zip(("y", "h"), (y, h), expected, strict=True):
        close(mine, theirs, EXACT[dtype], name)
    wanted = {"x": dx, "residual": dx, "scale": dscale, "bias": dbias}
    for name, mine in grads.items():
        assert mine.dtype == dict(zip(NAMES, values, strict=True))[name].dtype
        close(mine, wanted[name], EXACT[dtype], f"gradient of {name}")


@settings(max_examples=8)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(list(EXACT)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_value_and_every_gradient_are_those_of_float64(shape, dtype, center, residual, bias):
    values = arrays(shape, dtype)
    options = center, residual, bias
    found = jax.jit(partial(run, *options))(values)
    check(*options, values, found, dtype)


@pytest.mark.row("C-032")
@pytest.mark.parametrize("features", [64, 100, 768])
def test_it_is_the_layer_norm_of_linen(features):
    x, _, scale, bias, dy, _ = arrays((32, features))

    def linen(x, scale, bias):
        params = {"params": {"scale": scale, "bias": bias}}
        return nn.LayerNorm(1e-5, use_fast_variance=False).apply(params, x)

    both = []
    for norm in (layer_norm, linen):
        y, pull = jax.vjp(norm, x, scale, bias)
        both.append((y, *pull(dy)))
    for name, mine, theirs in zip(("y", "x", "scale", "bias"), *both, strict=True):
        # Of the largest value: float32 ends there.
        close(mine, theirs, 1e-6 if name == "y" else 1e-5, name)


# The last block is not full, and the backward pass adds several up.
WHOLE = TpuBlocks(16 * 128 * 4, 16, 512)
INTERPRETED = {
    # An interpreter that fills what was not written with NaN, and finds races; and the plain one,
    # which fills what lies beyond an array with NaN.
    "tpu": (tpu, {"interpret": pltpu.InterpretParams(detect_races=True)}, (40, 128), WHOLE),
    "tpu ragged": (tpu, {"interpret": True}, (37, 256), WHOLE),
    "tpu ragged in parts": (tpu, {"interpret": True}, (37, 256), TpuBlocks(32 * 256 * 4, 16, 128)),
    "gpu ragged": (gpu, {"interpret": True}, (37, 100), GpuBlocks(16 * 128)),
}


@pytest.mark.row("C-032")
@pytest.mark.parametrize("name", INTERPRETED)
@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
def test_a_kernel_is_the_reference_to_the_last_bits(name, center):
    module, options, shape, blocks = INTERPRETED[name]
    x, residual, scale, bias, dy, dh = arrays(shape)
    norm = Norm(1e-5, center, jnp.dtype("bfloat16"))
    residual, bias, dh = (residual, bias, dh) if center else (None, None, None)
    passes = {"forward": (x, residual, scale, bias), "backward": (x, dy, dh, scale)}
    for direction, args in passes.items():
        run = partial(getattr(module, direction), norm=norm, blocks=blocks, **options)
        found = jax.jit(run)(*args)
        for mine, theirs in zip(found, getattr(reference, direction)(*args, norm), strict=True):
            assert mine.dtype == theirs.dtype
            close(mine, theirs, 8e-3 if mine.dtype == jnp.bfloat16 else 1e-6)


def test_infinite_rows_stay_alone():
    x, _, scale, bias, dy, _ = arrays((6, 33))
    bad = x.at[2].set(jnp.inf)
    pulls = [jax.vjp(lambda x: layer_norm(x, scale, bias), a) for a in (x, bad)]
    (y, pull), (found, pull_bad) = pulls
    rows = np.array([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(y[rows], found[rows])
    np.testing.assert_array_equal(pull(dy)[0][rows], pull_bad(dy)[0][rows])


def test_it_works_under_vmap_remat_scan_and_twice():
    x, _, scale, bias, dy, _ = arrays((3, 5, 33))

    def naive(x, scale, bias):
        mean = x.mean(-1, keepdims=True)
        unit = (x - mean) / jnp.sqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-5)
        lead = (1,) * (x.ndim - 1)
        return unit * scale.reshape(*lead, -1) + bias.reshape(*lead, -1)

    def everything(norm, x, scale, bias):
        one = jax.vmap(jax.checkpoint(norm), (0, None, None))(x, scale, bias)
        two, _ = jax.lax.scan(lambda c, _: (jnp.sin(norm(c, scale, bias)), None), one, None, 2)
        return (two * dy).sum()

    def penalty(norm, x, scale, bias):
        gradient = jax.grad(lambda x: jnp.sin(norm(x, scale, bias)).sum())(x)
        return jnp.square(gradient).sum()

    for loss in (everything, penalty):
        mine, theirs = (
            jax.jit(jax.grad(partial(loss, norm), argnums=(0, 1, 2)))(x, scale, bias)
            for norm in (layer_norm, naive)
        )
        for a, b in zip(mine, theirs, strict=True):
            close(a, b, 2e-5)


@pytest.mark.parametrize("rules", ["fsdp+tp", "fsdp+tp+sp+dp"])
def test_shards_give_the_same_and_send_no_activations(rules):
    x, residual, scale, bias, dy, dh = arrays((4, 8, 33))
    mesh = make_mesh(data=2, fsdp=2, model=2)
    params = {"params": {"scale": scale, "bias": bias}}

    def loss(params, x, residual, shards):
        with scope(mesh if shards else make_mesh(jax.devices()[:1]), rules):
            y, h = LayerNorm().apply(params, x, residual)
        return (y * dy + h * dh).sum()

    def gradients(shards):
        return jax.grad(partial(loss, shards=shards), argnums=(0, 1, 2))

    with jax.set_mesh(mesh):
        compiled = jax.jit(gradients(True)).lower(params, x, residual).compile()
    found = compiled(params, x, residual)
    text = compiled.as_text()
    expected = run(True, True, True, (x, residual, scale, bias, dy, dh))[2]
    wanted = ({"params": {n: expected[n] for n in params["params"]}}, expected["x"], expected["x"])
    jax.tree.map(lambda a, b: close(a, b, 1e-5), found, wanted)
    sums = [line for line in text.splitlines() if " all-reduce(" in line]
    assert sums and all("8,33]" not in line and "4,33]" not in line for line in sums)


def test_its_parameters_are_those_of_linen():
    x = jnp.ones((2, 3, 4))
    mine, theirs = (norm.init(jax.random.key(0), x) for norm in (LayerNorm(), nn.LayerNorm()))
    assert jax.tree.map(jnp.shape, unbox(mine)) == jax.tree.map(jnp.shape, theirs)


@pytest.mark.row("C-033")
def test_it_is_two_kernels_elsewhere_and_none_here():
    values = arrays((4, 9, 128), "bfloat16")
    traced = jax.jit(partial(run, True, True, True)).trace(values)
    text = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("tpu", "cuda", "cpu")}
    assert text["tpu"].count("tpu_custom_call") == text["cuda"].count("triton") == 2
    assert "custom_call" not in text["cpu"]


@pytest.mark.row("C-033")
def test_what_a_kernel_refuses_falls_back_and_can_be_an_error():
    x = jnp.ones((2, 8), jnp.float16)
    with pytest.raises(InputError, match=r"impl='tpu' cannot run float16.*TPUs load float32"):
        layer_norm(x, impl="tpu")
    with pytest.raises(InputError, match="no impl='triton'"):
        layer_norm(x, impl="triton")
    with recording() as heard:
        traced = jax.jit(layer_norm).trace(x)
    assert "custom_call" not in traced.lower(lowering_platforms=("tpu",)).as_text()
    with strict():
        layer_norm(x)
    with pytest.raises(InputError, match="XLA is faster at 8 features"):
        layer_norm(x.astype("float32"), impl="tpu")
    assert any(c.kernel == "layer_norm" and "float16[2, 8]" in c.shape for c in heard)


def test_xla_runs_where_its_program_takes_fewer_cycles():
    kind, rows = "TPU v6 lite", jnp.ones((16, 8192), "bfloat16")
    assert re.search("XLA takes .* cycles over 2048 x 8192", tpu.refusal(rows, kind, "forward", 0))
    assert tpu.refusal(rows, kind, "backward", False) is None
    assert tpu.refusal(rows, "TPU v5", "forward", False) is None

    def both(x):
        return jax.value_and_grad(lambda x: rms_norm(x, device=kind).sum())(x)

    text = jax.jit(both).trace(rows).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 1
    results = Path(tpu.__file__).parents[1] / "results" / "tpu.jsonl"
    for told in filter(lambda told: told["op"] == "layer_norm", records_of(results)):
        norm, shape, _ = told["case"].split(", ")
        place = told["direction"], norm == "layer", KINDS[told["target"]], int(shape.split()[-1])
        found = row("tpu", *place).found
        assert told["cycles"] == found["value" if told["impl"] == "ours" else "peer"]


def records_of(path):
    return map(json.loads, path.read_text().splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": jnp.ones((2, 3)), "scale": jnp.ones(4)}, r"scale has shape \(4,\)"),
        ({"x": jnp.ones((2, 3)), "residual": jnp.ones((3, 3))}, "residual has shape"),
        ({"x": jnp.ones((2, 3), int)}, "of floats"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        layer_norm(**arguments)


@pytest.mark.tpu_aot
@pytest.mark.row("C-032")
@pytest.mark.parametrize("target", ["v5e:1x1", "v5p:2x2x1", "v6e:2x2"])
def test_it_compiles_for_tpus(target):
    for shape, dtype in (((4, 512, 768), "bfloat16"), ((37, 256), "float32")):
        given = shapes_on(devices(target)[0], jax.eval_shape(partial(arrays, shape, dtype)))
        compiled = jax.jit(partial(run, True, True, True)).lower(given).compile()
        assert compiled.as_text().count("tpu_custom_call") == 2


@pytest.mark.gpu_aot
@pytest.mark.parametrize("features", [100, 768, 2**13])
def test_it_compiles_for_hopper_without_spilling(features):
    # Several blocks for each program of the backward pass.
    given = jax.eval_shape(partial(arrays, (4096, features), "bfloat16"))
    given = shapes_on(devices("h200:1")[0], given)
    options = {"xla_gpu_fail_ptx_compilation_on_register_spilling": True}
    lowered = jax.jit(partial(run, True, True, True)).lower(given)
    assert "triton" in lowered.as_text()
    lowered.compile(compiler_options=options)
