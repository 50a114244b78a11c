"""Attention's kernels for accelerators: interpreted, lowered, and compiled for absent hardware."""

import importlib.util
import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask_info as mask_info,
)

from jaxdl.core.errors import InputError
from jaxdl.core.topology import devices, shapes_on
from jaxdl.kernels.flash_attention import (
    cycles,
    flash_attention,
    gpu,
    gpu_blocks,
    seeds_of,
    spills,
    tiles,
    tpu,
    tpu_blocks,
)
from jaxdl.kernels.flash_attention.blocks import TpuBlocks

# The cases and the comparison with the reference are those of the CPU's tests.
_spec = importlib.util.spec_from_file_location(
    "attention", Path(__file__).with_name("test_flash_attention.py")
)
attention = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(attention)
CASES, arrays, check, check_halves, everything = (
    getattr(attention, name) for name in ("CASES", "arrays", "check", "check_halves", "everything")
)


def check_on_gpu(case, monkeypatch, check=check):
    monkeypatch.setattr(gpu.pl, "pallas_call", partial(gpu.pl.pallas_call, interpret=True))
    monkeypatch.setattr(gpu_blocks, "PRECISE", jax.lax.Precision.HIGHEST)
    monkeypatch.setattr(gpu, "tile_of", lambda *_: tiles.Tile(64, 32, 4, 1))
    check("gpu", **({"lengths": (70, 53)} | CASES[case]))


@pytest.mark.parametrize("case", ["causal, one head of keys for all", "bias of heads", "dropout"])
def test_triton_kernels_are_the_reference_in_interpret_mode(case, monkeypatch):
    check_on_gpu(case, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_triton_feature_is_the_reference_in_interpret_mode(case, monkeypatch):
    check_on_gpu(case, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["causal, one head of keys for all", "bias of heads", "dropout"])
def test_triton_kernels_of_wide_heads_are_the_reference(case, monkeypatch):
    """Heads above 256 bytes have a kernel for keys and one for values."""
    check_on_gpu(case, monkeypatch, partial(check, sizes=(72, 70)))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["causal, one head of keys for all", "dropout"])
def test_triton_kernels_put_a_whole_together_from_parts_of_the_keys(case, monkeypatch):
    check_on_gpu(case, monkeypatch, check_halves)


def check_on_tpu(case, monkeypatch, check=check, **kw):
    monkeypatch.setattr(tpu, "on_tpu", lambda *_: TpuBlocks(128, 128, 2))
    monkeypatch.setattr(tpu_blocks, "TOGETHER", 256 * 128)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(detect_races=True)):
        check("tpu", **({"lengths": (150, 280), "batch": 1} | CASES[case] | kw))


@pytest.mark.row("C-029", "C-030")
def test_mosaic_kernels_are_the_reference_in_interpret_mode(monkeypatch):
    check_on_tpu("causal window, capped", monkeypatch, lengths=(150, 150))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_mosaic_feature_is_the_reference_in_interpret_mode(case, monkeypatch):
    lengths = (280, 150) if "nothing" in case else (150, 280)
    check_on_tpu(case, monkeypatch, lengths=lengths)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["causal, one head of keys for all", "dropout"])
def test_mosaic_kernels_put_a_whole_together_from_parts_of_the_keys(case, monkeypatch):
    check_on_tpu(case, monkeypatch, check_halves)


IN_PARTS = {
    "grouped heads": {"causal": True, "heads": (4, 2)},
    "window": {"window": (90, 20), "soft_cap": 1.5},
    "segments": {"segments": True, "causal": True},
    "dropout": {"dropout": 0.3},
    "dropout by other positions": {"dropout": 0.3, "runs": attention.RUNS},
    "bias": {"bias": (False, True, False)},
    "bfloat16": {"causal": True, "heads": (2, 1), "dtype": "bfloat16"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", IN_PARTS)
def test_gradients_of_long_queries_in_parts_are_the_reference(case, monkeypatch):
    """The most elements of queries at once are lowered, so that 280 take three parts."""
    monkeypatch.setattr(tpu, "LONGEST", 128 * 128)
    parts, gradients = [], tpu._gradients
    monkeypatch.setattr(tpu, "_gradients", lambda *a: parts.append(a[-5]) or gradients(*a))
    check_on_tpu("plain", monkeypatch, lengths=(280, 150), **IN_PARTS[case])
    assert parts == [0, 128, 256]


@pytest.mark.row("C-033")
@pytest.mark.parametrize(
    ("platform", "call", "count"), [("cuda", "triton", 3), ("tpu", "tpu_custom_call", 2)]
)
def test_all_features_lower_for_accelerators_without_one(platform, call, count):
    given, static = arrays((200, 300), heads=(4, 2), bias=(True, False, True), segments=True)
    given = {n: x.astype("bfloat16") if n in "qkv" else x for n, x in given.items()}
    given["seeds"] = seeds_of(jax.random.key(0), 2, 4)
    static |= {"causal": True, "window": 70, "soft_cap": 20.0, "dropout": 0.1}
    static |= {"runs": attention.RUNS}
    run = jax.jit(partial(everything, static=static, impl=None))
    text = run.trace(given).lower(lowering_platforms=(platform,)).as_text()
    assert len(re.findall(rf"custom_call @\S*{call}", text)) == count


def test_what_an_accelerator_cannot_run_goes_to_the_reference():
    given, _ = arrays((20, 20), sizes=(300, 300))
    run = jax.jit(partial(flash_attention, causal=True))
    for platform in ("cuda", "tpu"):
        text = run.trace(**given).lower(lowering_platforms=(platform,)).as_text()
        assert "triton" not in text and "tpu_custom_call" not in text
    for impl in ("gpu", "tpu"):
        with pytest.raises(InputError, match=f"impl='{impl}' cannot run .* 300 is above 256"):
            flash_attention(**given, impl=impl)


ABSENT = [
    ("v5e:1x1", 64, 2048, "bfloat16"),
    pytest.param("v5e:1x1", 256, 32768, "bfloat16", marks=pytest.mark.slow),
    pytest.param("v5e:1x1", 256, 2048, "float32", marks=pytest.mark.slow),
    pytest.param("v5p:2x2x1", 128, 32768, "bfloat16", marks=pytest.mark.slow),
    pytest.param("v6e:2x2", 256, 32768, "bfloat16", marks=pytest.mark.slow),
]


@pytest.mark.tpu_aot
@pytest.mark.parametrize(("topology", "size", "length", "dtype"), ABSENT)
def test_it_compiles_for_absent_tpus_in_memory_linear_in_the_length(topology, size, length, dtype):
    compiled = compiled_for(topology, size, length, dtype)
    parts = -(-length * max(size, 128) // tpu.LONGEST)
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 1 + parts
    # Copies of what comes in and goes out, in float32 what is summed up over parts; all logits
    # would be 4 GiB at 32k.
    inputs = 2 * length * size * jnp.dtype(dtype).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes <= 16 * inputs


@pytest.mark.slow
@pytest.mark.gpu_aot
@pytest.mark.parametrize("size", [64, 80, 96, 128, 256])
def test_half_precision_spills_no_register_on_an_absent_h200(size, tmp_path):
    strict = {"xla_gpu_fail_ptx_compilation_on_register_spilling": True}
    compiled_for("h200:1", size, 2048, "bfloat16", strict | {"xla_dump_to": str(tmp_path)})
    assembly = "".join(path.read_text() for path in tmp_path.glob("*.ptx"))
    assert "wgmma.mma_async" in assembly and "mma.sync" not in assembly


@pytest.mark.slow
@pytest.mark.gpu_aot
@pytest.mark.parametrize("features", [("window",), spills.PACKED, spills.EVERYTHING])
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("kernel", spills.KERNELS)
def test_features_spill_no_register_and_need_no_old_product(kernel, size, features):
    found = spills.compiled_stats(kernel, None, size, "bfloat16", features)
    assert found["spills"] == found["stack"] == found["mma_sync"] == 0 < found["wgmma"]


@pytest.mark.slow
@pytest.mark.gpu_aot
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("kernel", spills.KERNELS)
def test_packed_sequences_spill_no_register_on_an_absent_a100(kernel, size):
    found = spills.compiled_stats(kernel, None, size, "bfloat16", spills.PACKED, "a100:1")
    assert found["spills"] == found["wgmma"] == 0 < found["mma_sync"]


@pytest.mark.gpu_aot
def test_shared_memory_that_does_not_suffice_is_told():
    found = spills.compiled_stats("forward", tiles.Tile(256, 256, 8, 3), 128, "bfloat16")
    assert found["shared"] > 227 * 2**10 and found["spills"] is None


def test_the_results_tell_of_no_spill_in_half_precision():
    path = Path(gpu.__file__).parents[1] / "results" / "gpu_aot.jsonl"
    known = {}
    for record in map(json.loads, path.read_text().splitlines()):
        if record["op"] == "attention":
            key = (*(record[name] for name in ("direction", "size", "dtype", "features")),)
            known[key] = record
    expected = {(*case[:3], " + ".join(case[3]) or "no feature") for case in spills.cases()}
    assert known.keys() == expected
    for record in known.values():
        if record["dtype"] != "float32":
            assert record["spills"] == record["mma_sync"] == 0 < record["wgmma"], record["case"]
        assert record["spills"] <= 8, record["case"]


def compiled_for(topology, size, length, dtype, options=None):
    given, static = arrays((1, 1), (2, 2), (size, size), dtype, 1, causal=True)
    device = devices(topology)[0]
    static |= {"device": device.device_kind}
    given = {
        name: jax.ShapeDtypeStruct((1, length, *x.shape[2:]), dtype) for name, x in given.items()
    }
    given = shapes_on(device, given)
    run = jax.jit(partial(everything, static=static, impl=None))
    return run.lower(given).compile(compiler_options=options or {})


@pytest.mark.parametrize("keys", [512, 1024])
@pytest.mark.parametrize("back", [False, True])
def test_the_schedule_of_the_estimate_is_what_splash_looks_up(keys, back):
    causal = masks.MultiHeadMask([masks.CausalMask((4096, 4096))])
    process = mask_info.process_mask_dkv if back else mask_info.process_mask
    tables, _ = process(causal, (1024, keys), head_shards=1, q_seq_shards=1)
    for (_, i, j), kind in np.ndenumerate(tables.block_mask):
        fetched, _, needed, _ = cycles.scheduled(1024, keys, 0, i, j, next_i=back)
        assert bool(needed) == (kind > 0)
        assert not needed or fetched == tables.data_next[0, i, j] == (i if back else j)
