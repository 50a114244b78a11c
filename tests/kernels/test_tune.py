"""Sizes of blocks are found by a command: pruned, measured, kept, written, and then taken."""

import json
import sys
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jaxdl.core.errors import InputError
from jaxdl.kernels import absent_tpu, measure, tune
from jaxdl.kernels.blocks import Row, Table
from jaxdl.kernels.flash_attention import blocks as attention_blocks
from jaxdl.kernels.flash_attention import tune as attention_tune
from jaxdl.kernels.layer_norm import blocks as layer_norm_blocks
from jaxdl.kernels.layer_norm import tune as layer_norm_tune
from jaxdl.kernels.measure import Case, Verdict

SIZES = [{"rows": n} for n in (8, 16, 32, 64)]


def row(device, size, value, kernel="forward"):
    return Row("tpu", kernel, size, (device,), {"rows": value}, "time", {})


def test_a_table_has_the_row_for_the_device_and_then_for_the_size():
    table = Table([row("*", 64, 1), row("TPU v5", 64, 2), row("TPU v5", 256, 3)])
    asked = [("TPU v5", 1), ("TPU v5", 65), ("TPU v5", 999), ("TPU v5 lite", 64), ("", 64)]
    found = [table.find("tpu", "forward", device, size).blocks["rows"] for device, size in asked]
    assert found == [2, 3, 3, 1, 1]
    narrow = Table([row("*", 64, 1), row("*", 256, 2), row("TPU v5", 64, 3)])
    found = [
        narrow.find("tpu", "forward", "TPU v5", size).blocks["rows"] for size in (64, 256, 512)
    ]
    assert found == [3, 2, 2], "a row for narrow ones alone"
    with pytest.raises(LookupError, match="no blocks of 'forward' for tpu 'TPU v9'"):
        Table([row("TPU v5", 64, 1)]).find("tpu", "forward", "TPU v9", 64)
    gpu = Table([row("*", 1, 1), row("*H200*", 1, 2), row("NVIDIA H200", 1, 3)])
    assert gpu.find("tpu", "forward", "NVIDIA H200", 1).blocks["rows"] == 3
    assert gpu.find("tpu", "forward", "NVIDIA H200 NVL", 1).blocks["rows"] == 2


def test_a_table_is_what_was_written_and_a_new_row_replaces_its_like(tmp_path):
    table = Table([row("*", 64, 1)]).with_row(row("*", 64, 5)).with_row(row("*", 32, 7))
    table.write(tmp_path / "blocks.json")
    assert Table.read(tmp_path / "blocks.json").rows == [row("*", 32, 7), row("*", 64, 5)]


@pytest.mark.parametrize("op", ["flash_attention", "layer_norm"])
def test_the_tables_of_the_kernels_say_how_each_row_was_chosen(op):
    path = tune.HERE / op / "blocks.json"
    table = Table.read(path)
    assert len({row.place for row in table.rows}) == len(table.rows)
    assert {row.by for row in table.rows} <= {"static cycles", "time", "compiled", "shared memory"}
    kernels = {(row.platform, row.kernel) for row in table.rows}
    for kernel in kernels:
        assert table.find(*kernel, "unheard of", 1).fit("unheard of") >= 0
    written = path.read_text()
    table.write(path)
    assert path.read_text() == written


def fake(monkeypatch):
    """A module whose program squares some rows at a time, and takes longer the fewer they are."""
    module = types.ModuleType("jaxdl_fake")

    def program(count, blocks):
        rows = blocks["rows"]

        def run(x):
            return jax.lax.map(lambda part: jnp.tanh(part) @ part.T, x.reshape(-1, rows, 8)).sum()

        return run, [jax.ShapeDtypeStruct((count, 8), jnp.float32)]

    module.program = program
    monkeypatch.setitem(sys.modules, "jaxdl_fake", module)
    return module


def case(**more):
    return Case(
        "cpu", "squares", 8, "4096 x 8", tuple(SIZES), "jaxdl_fake:program", (4096,), **more
    )


def test_the_fastest_is_found_on_the_device_at_hand_once(monkeypatch, tmp_path):
    fake(monkeypatch)
    target, cache = measure.target("here"), tmp_path / "kept.jsonl"
    *said, found = tune.tune([case()], target, tune.Cache(cache))
    assert [one[1] for one in said] == SIZES
    times = [one[2].value for one in said]
    assert all(t > 0 for t in times) and found.best[1].value == min(times)
    # The second time nothing is compiled or run, though the last line was cut.
    cache.write_text(cache.read_text() + '{"key": "ab')
    monkeypatch.delitem(sys.modules, "jaxdl_fake")
    known = tune.Cache(cache)
    *again, found_again = tune.tune([case()], target, known)
    assert again == said and found_again == found and known.hits == len(SIZES)
    new = tune.row(found, target)
    assert new.by == "time" and new.found["of"] == 4 and new.devices == (target.device,)


def test_times_of_different_runs_are_not_compared(monkeypatch, tmp_path):
    fake(monkeypatch)
    target, cache = measure.target("here"), tune.Cache(tmp_path / "kept.jsonl")
    list(tune.tune([case()], target, cache))
    told = [json.loads(line) for line in cache.path.read_text().splitlines()]
    cache.path.write_text("".join(json.dumps(one) + "\n" for one in told[:3]))
    some = tune.Cache(cache.path)
    list(tune.tune([case()], target, some))
    assert len(cache.path.read_text().splitlines()) == 3 + len(SIZES)


def test_what_exceeds_the_budget_or_breaks_tiles_is_not_compiled(monkeypatch):
    tpu = measure.Target("v6e:2x2", "tpu", "TPU v6 lite", "static cycles", "cycles", False, None)
    big = Case("tpu", "k", 1, "", (), "", (), memory=lambda blocks: blocks["rows"] * 2**20)
    assert not measure.pruned(big, {"rows": 128}, tpu)
    assert "134,217,728" in measure.pruned(big, {"rows": 129}, tpu)
    odd = Case("tpu", "k", 1, "", (), "", (), shape=lambda blocks: (blocks["rows"], 128))
    assert not measure.pruned(odd, {"rows": 8}, tpu)
    assert "12 x 128 are no multiple of 8 x 128" in measure.pruned(odd, {"rows": 12}, tpu)
    budgets = {
        kind: measure.budget(measure.Target("", "gpu", kind, "", "", False, None)) // 1024
        for kind in ("NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 4090")
    }
    assert list(budgets.values()) == [227, 163, 99]
    with pytest.raises(InputError, match="fast memory of 'TPU v99'"):
        measure.budget(measure.Target("", "tpu", "TPU v99", "", "", False, None))


def test_nothing_that_fits_is_an_error_that_says_why():
    nothing = tune.Found(case(), [(SIZES[0], Verdict(None, "ms", "overflow: all of it"))])
    with pytest.raises(InputError, match=r"none of 4 candidates fits .*: overflow: all of it"):
        tune.row(nothing, measure.target("here"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layer_nrom"], "did you mean 'layer_norm'"),
        (["flash_attention", "--only", "dkv"], "flash_attention has no 'dkv' for cpu; it has all"),
        (["layer_norm"], "layer_norm has nothing to tune for cpu"),
        (["layer_norm", "--target", "v7e:2x2"], "no hardware is called 'v7e'"),
    ],
)
def test_the_command_names_what_would_work(arguments, message, capsys):
    assert tune.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.tpu_aot
@pytest.mark.row("C-034")
def test_the_command_tunes_for_an_absent_tpu_and_the_kernel_takes_what_it_found(
    monkeypatch, tmp_path, capsys
):
    sizes = {"fine": 2**17, "small": 2**14, "no tile": 2**17, "too large": 2**26}
    some = {
        name: {"bytes": size, "rows": 12 if name == "no tile" else 16, "columns": 128}
        for name, size in sizes.items()
    }
    # Less than all of the fast memory, but more than the compiler gives to one kernel.
    some["overflow"] = {"bytes": 2**24, "rows": 2048, "columns": 256}
    tiny = replace(
        *layer_norm_tune.cases("tpu", "TPU v6 lite")[:1],
        **{"size": 256, "candidates": tuple(some.values())},
        given=("tpu", "layer", "forward", 2**15, 256),
    )
    monkeypatch.setattr(layer_norm_tune, "cases", lambda platform, device: [tiny])
    table, cache = tmp_path / "blocks.json", tmp_path / "kept.jsonl"
    command = ["layer_norm", "--target", "v6e:2x2", "--json"]
    command += ["--table", str(table), "--cache", str(cache)]

    def said():
        assert tune.main(command) == 0
        out, err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()], err

    (*verdicts, best), _ = said()
    found = dict(zip([*some, "xla"], verdicts, strict=True))
    assert found["too large"]["why"].startswith("overflow: 2")
    assert "no multiple of 8 x 128" in found["no tile"]["why"]
    assert "limit 32.00M exceeded" in found["overflow"]["why"]
    assert 0 < found["fine"]["value"] < found["small"]["value"] and found["xla"]["value"] > 0
    assert best["blocks"] == some["fine"] and best["devices"] == ["TPU v6 lite"]
    assert (best["found"]["of"], best["found"]["peer"]) == (5, found["xla"]["value"])
    # Nothing is compiled again.
    monkeypatch.setattr(absent_tpu.AbsentTpu, "cycles", None)
    again, err = said()
    assert again == [*verdicts, best] and err.startswith("4 verdicts were known")
    monkeypatch.setattr(layer_norm_blocks, "PATH", table)
    assert layer_norm_blocks.on_tpu("forward", True, "TPU v6 lite", 256).bytes == 2**17


@pytest.mark.slow
@pytest.mark.row("C-034")
def test_the_command_times_attention_on_this_cpu_and_attention_takes_what_it_found(
    monkeypatch, tmp_path
):
    one = replace(
        *[x for x in attention_tune.cases("cpu", "cpu") if x.kernel == "some keys"],
        **{"given": (True, 1024, 1, 16), "size": 16},
    )
    one = replace(one, candidates=one.candidates[:4])
    monkeypatch.setattr(attention_tune, "cases", lambda platform, device: [one])
    table = tmp_path / "blocks.json"
    command = ["flash_attention", "--table", str(table), "--cache", str(tmp_path / "kept.jsonl")]
    assert tune.main(command) == 0
    (best,) = Table.read(table).rows
    assert (best.by, best.found["unit"], best.found["of"]) == ("time", "ms", 4)
    monkeypatch.setattr(attention_blocks, "PATH", table)
    assert attention_blocks.on_cpu(True, 16) == attention_blocks.CpuBlocks(**best.blocks)


@pytest.mark.gpu_aot
@pytest.mark.row("C-034")
def test_what_spills_on_an_absent_gpu_falls_out(tmp_path, capsys):
    command = ["layer_norm", "--target", "h200:1", "--only", "rms,backward,8192"]
    command += ["--table", str(tmp_path / "blocks.json"), "--cache", str(tmp_path / "kept.jsonl")]
    assert tune.main(command) == 0
    said = capsys.readouterr().out
    assert "numbers 16384: spills: " in said and "numbers 4096: 1" in said
    (best,) = Table.read(tmp_path / "blocks.json").rows
    assert (best.by, best.devices, best.blocks) == ("compiled", ("NVIDIA H200",), {"numbers": 4096})


@pytest.mark.tpu_aot
def test_a_compiler_that_ends_is_told_and_the_next_program_gets_another():
    norm = "jaxdl.kernels.layer_norm.programs:program"
    with absent_tpu.AbsentTpu() as compiler:
        with pytest.raises(absent_tpu.NoCycles, match="the compiler ended"):
            compiler.cycles("v6e:2x2", "os:abort")
        assert compiler.cycles("v6e:2x2", norm, "reference", {}, "rms", "forward", 64, 128) > 0
        with pytest.raises(RuntimeError, match=r"v6e:2x2 json:loads .*JSONDecodeError"):
            compiler.cycles("v6e:2x2", "json:loads", "no JSON")
