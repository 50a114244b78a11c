"""`jaxdl bench` and `jaxdl profile`: what they print and refuse."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from jaxdl.bench.workloads import WORKLOADS
from jaxdl.cli import bench

RECORDS = [
    {"bench": "step", "workload": "gpt", "peer": "linen", "step_ms": 12.34567, "ratio": 1.0}
    | {"unit": "tokens", "flops": 10**9},
    {"bench": "step", "workload": "gpt", "peer": "keras", "missing": "pip install 'jaxdl[parity]'"},
]


@pytest.fixture
def measured(monkeypatch):
    """Puts records in the place of a measurement."""

    def put(records):
        monkeypatch.setattr(bench, "measure_step", lambda *args, **kwargs: iter(records))

    put(RECORDS)
    return put


def test_json_is_one_object_a_line_with_hardware_and_versions(jaxdl, measured):
    told = jaxdl("bench", "step", "--workloads", "gpt", "--json")
    found = [json.loads(line) for line in told.out.splitlines()]
    assert told.code == 0 and [r["peer"] for r in found] == ["linen", "keras"]
    assert found[0]["step_ms"] == 12.35 and found[0]["flops"] == 10**9
    assert {"cpu", "cores", "load", "date", "versions"} <= set(found[0])
    assert found[0]["versions"]["jax"]


def test_the_table_shows_what_there_is_and_tells_what_is_missing(jaxdl, measured):
    told = jaxdl("bench", "step", "--workloads", "gpt")
    assert told.code == 0 and "gpt (tokens)" in told.out and "12.35" in told.out
    assert "keras: pip install 'jaxdl[parity]'" in told.out and "compile" not in told.out


def test_a_failed_measurement_is_told_and_exits_1(jaxdl, measured):
    failed = {"bench": "step", "workload": "gpt", "peer": "torch", "error": "out of memory"}
    measured([*RECORDS, failed])
    told = jaxdl("bench", "step", "--workloads", "gpt,vit")
    assert told.code == 1 and told.out.count("torch: out of memory") == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("step", "--workloads", "gtp"), "unknown workload 'gtp' of step; did you mean 'gpt'"),
        (("input", "--workloads", "gpt"), "choose from: arrays, jpeg"),
        (("loop", "--workloads", "gpt"), "there is none"),
        (("step", "--rounds", "0"), "rounds=0 must be at least 1"),
    ],
    ids=["workload", "of-input", "of-loop", "rounds"],
)
def test_bad_options_are_refused_before_anything_is_measured(jaxdl, argv, words):
    told = jaxdl("bench", *argv)
    assert told.code == 2 and words in told.words


def test_profile_prints_every_table_and_json_says_the_same(jaxdl, place):
    told = jaxdl("profile", "exp.py", "--steps", "2", "--set", "model.widths=(4,)")
    assert told.code == 0
    for words in (
        *("phases", "modules", "lines", "kinds", "ops", "MLP/head", "backward"),
        *("models/mlp.py:", "waiting for input", "device idle", "compiling", "besides", "GFLOP/s"),
    ):
        assert words in told.out
    assert (place / "build" / "profile").is_dir()
    told = jaxdl("profile", "exp.py", "--steps", "2", "--json")
    summary, *rows = [json.loads(line) for line in told.out.splitlines()]
    assert summary["step_ms"] > 0 and 0 <= summary["device_idle_share"] < 1
    assert {row["table"] for row in rows} == {"phases", "modules", "lines", "kinds", "ops"}
    told = jaxdl("profile", "exp.py", "--steps", "0")
    assert told.code == 2 and "steps=0" in told.words


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("libtpu"), reason="pip install 'jaxdl[aot]'")
def test_profile_outlives_a_libtpu_of_another_version(place):
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    argv = ["profile", "exp.py", "--steps", "1", "--json"]
    done = subprocess.run([sys.executable, "-m", "jaxdl", *argv], env=env, capture_output=True)
    assert done.returncode == 0 and b"step_ms" in done.stdout, done.stderr.decode()


@pytest.mark.slow
def test_bench_step_measures_through_the_command_line(jaxdl, monkeypatch):
    small = replace(WORKLOADS["lstm"], vocab=16, width=8, seq=8, batch=8)
    monkeypatch.setitem(bench.WORKLOADS, "lstm", small)
    told = jaxdl(
        *("bench", "step", "--workloads", "lstm", "--rounds", "1", "--seconds", "0.01"), "--json"
    )
    ours, floor = map(json.loads, told.out.splitlines())
    assert told.code == 0 and floor["ratio"] == 1 and ours["ratio"] > 0
    assert ours["note"] == "64 parameters more than linen"
