"""The tables of the kernels' README are what its result files say."""

import json

import pytest

from jaxdl.bench import tables
from jaxdl.core.errors import InputError

PLACE = {
    "cpu": "A CPU",
    "cores": 2,
    "load": 7.4,
    "date": "2026-11-25T17:00:00+00:00",
    "versions": {"jax": "0.10.2", "numpy": "2"},
}


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)))


def test_the_readme_holds_the_tables_of_the_result_files():
    old = (tables.HERE / "README.md").read_text()
    message = "run `python -m jaxdl.bench.tables`"
    assert tables.written(old, tables.HERE / "results") == old, message


def test_nothing_measured_is_said_and_missing_markers_are_named(tmp_path):
    told = tables.tables(tmp_path)
    assert "Not measured: any time on a CPU" in told and "every time on a GPU" in told
    with pytest.raises(InputError, match="no lines <!-- results -->"):
        tables.written("no marker", tmp_path)


def test_a_time_stands_beside_its_peers_with_machine_load_and_date(tmp_path):
    one = {"bench": "kernels", "workload": "attention-1k", "rounds": 5, "ms": 1.0, **PLACE}
    records = [
        one | {"peer": "jaxdl", "cpu_ms": 1234.4, "temp_mb": 20.6},
        one | {"peer": "naive", "cpu_ms": 99.6, "temp_mb": None, "load": 9},
        {**PLACE, "bench": "kernels", "workload": "attention-1k", "peer": "torch", "missing": "?"},
    ]
    write(tmp_path / "cpu.jsonl", records)
    told = tables.tables(tmp_path)
    assert "A CPU, 2026-11-25, jax 0.10.2; load average 7.4 to 9.0 on 2 cores" in told
    assert "| attention-1k | 1,234, 21 MB | 100 | not installed |" in told
    assert "processor time, since the cores were not idle" in told
    assert "Not measured: whole models" in told


def test_wall_time_is_shown_where_the_cores_were_idle_and_models_beside_their_reference(tmp_path):
    place = PLACE | {"load": 1.9}
    taken = {"wall_ms": 30.0, "cpu_ms": 50.0, "temp_mb": 100.0}
    records = [
        {**place, "bench": "kernels", "workload": "w", "peer": "p", "rounds": 5, "ms": 7.0},
        {
            **{**place, "bench": "models", "model": "GPT", "kernel": taken},
            "reference": {"wall_ms": 120.0, "cpu_ms": 51.0, "temp_mb": 250.0},
        },
    ]
    write(tmp_path / "cpu.jsonl", records)
    told = tables.tables(tmp_path)
    assert "load average 1.9 to 1.9 on 2 cores): milliseconds of wall time" in told
    assert "| w | 7 |" in told
    assert "| GPT | 30, 100 MB | 120, 250 MB | 0.25 | 0.40 |" in told


def test_a_gpu_tells_parity_and_ceilings_first(tmp_path):
    times = {"kind": "times", "op": "layer_norm", "rows": 8, "width": 4, "gradient": True}
    records = [
        {"kind": "machine", "device": "NVIDIA H200", **PLACE},
        {"kind": "parity", "fine": True},
        {"kind": "parity", "fine": False},
        {"kind": "ceilings", "matmul_tflops": 700.0, "copy_gb_per_s": 4000.0},
        times | {"ms": {"jaxdl": 0.5, "naive": 1.0}, "fraction": {"jaxdl": 0.9, "naive": 0.45}},
        {"kind": "left out", "op": "attention", "time": 2048, "size": 64, "causal": True},
    ]
    write(tmp_path / "gpu.jsonl", records)
    told = tables.tables(tmp_path)
    assert "NVIDIA H200" in told and "1 of 2 cases of parity" in told and "700 TFLOP/s" in told
    assert "| layer_norm rows 8 width 4 backward | 0.500 (90%) | 1.000 (45%) |" in told
    assert "Not measured, for time:** attention time 2048 size 64 causal." in told


def test_what_kernels_became_on_an_absent_gpu_is_told_by_the_worst_of_their_features(tmp_path):
    one = {
        **{"op": "attention", "direction": "dkv", "dtype": "bfloat16", "size": 64, "shared": 2048},
        **{"registers": 200, "spills": 0, "wgmma": 8, "mma_sync": 0, "date": "2026-11-29"},
        **{"hardware": "none: compiled for an absent NVIDIA H200", "versions": {"ptxas": "13"}},
    }
    wide = one | {"size": 128, "registers": 255, "spills": 1200, "mma_sync": 4}
    large = one | {"size": 256, "spills": None, "registers": None}
    norm = one | {"op": "norm", "direction": "forward", "wgmma": 0}
    write(tmp_path / "gpu_aot.jsonl", [one, one | {"registers": 210}, wide, large, norm])
    told = tables.tables(tmp_path)
    assert "absent (NVIDIA H200; ptxas 13, 2026-11-29)" in told and "every time on a GPU" in told
    cells = "0 B, 210, 2 KiB, wgmma | **1,200 B spilled**, 255, 2 KiB, wgmma, mma"
    assert f"| attention | dkv | bfloat16 (2) | {cells} | shared memory does not suffice |" in told
    assert "| norm | forward | bfloat16 (1) | 0 B, 200, 2 KiB |" in told


def test_cycles_on_a_tpu_stand_beside_the_least_of_splash(tmp_path):
    one = {
        **{"op": "flash_attention", "case": "causal", "target": "v9", "direction": "forward"},
        **{"versions": {"libtpu": "7"}, "date": "2026-11-25", "impl": "ours", "cycles": 1200},
    }
    splash = one | {"impl": "splash, scheduled"}
    records = [one, splash | {"cycles": 2500}, splash | {"cycles": 2400}]
    records += [splash | {"cycles": None}, one | {"impl": "splash, as is", "cycles": 3}]
    write(tmp_path / "tpu.jsonl", [*records, one | {"target": "v8"}])
    told = tables.tables(tmp_path)
    assert "absent (libtpu 7, 2026-11-25)" in told and "any time on a TPU" in told
    assert "| v9 | causal, forward | 1,200 | 2,400 | 0.50 |" in told
    assert "| v8 | causal, forward | 1,200 | not measured |  |" in told


def test_cycles_of_normalisation_are_ratios_to_those_of_xla(tmp_path):
    one = {"op": "layer_norm", "target": "v9", "direction": "forward"}
    cycles = {"layer, 8 x 128": (50, 100), "rms, 8 x 128": (90, 100), "rms, 8 x 256": (120, 100)}
    records = [
        one | {"case": case, "impl": impl, "cycles": count}
        for case, counts in cycles.items()
        for impl, count in zip(("ours", "xla"), counts, strict=True)
    ]
    write(tmp_path / "tpu.jsonl", records)
    told = tables.tables(tmp_path)
    assert "3 programs. In the 1 in which ours takes more, XLA's runs." in told
    assert "| v9 | forward | 0.50 | 0.90 | 1.20 | rms, 8 x 256 |" in told
