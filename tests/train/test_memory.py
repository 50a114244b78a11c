"""The memory of a run is told and does not grow."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.core.loading import load_file
from jaxdl.core.records import read_records
from jaxdl.train import Evaluate, Log, Save, fit
from jaxdl.train.memory import host_memory_mb, peak_memory_mb

small = load_file(__file__.replace("test_memory", "small"))
EPOCH = -(-1197 // 64)


@pytest.mark.row("I-026")
def test_host_memory_is_what_the_system_says_and_sees_what_is_allocated():
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    before = host_memory_mb()
    assert before == pytest.approx(int(status["VmRSS"].split()[0]) * 1.024e-3, rel=0.02)
    held = np.ones(25_000_000)
    assert host_memory_mb() - before == pytest.approx(held.nbytes / 1e6, rel=0.05)
    assert peak_memory_mb() >= before + 190


@pytest.mark.slow
@pytest.mark.row("I-026")
@pytest.mark.parametrize("leak", [0, 8], ids=["as it is", "8 MB lost per epoch"])
def test_twenty_epochs_hold_no_more_memory_than_five(leak, tmp_path):
    lost = []
    hooks = (Log(every=EPOCH), Evaluate(every=EPOCH), Save(every=5 * EPOCH))
    exp = replace(small.base(), steps=20 * EPOCH, hooks=hooks)

    def lose():
        if at.now % EPOCH == 0:
            lost.append(np.ones(leak * 125_000))

    at = small.At(None, lose)
    fit(exp, tmp_path, watch=small.watch(at), devices=jax.devices()[:1])
    held = [r.values["host_mb"] for r in read_records(tmp_path) if r.split == "perf"]
    assert len(held) == 20
    assert (max(held[5:]) <= 1.05 * max(held[:5])) == (not leak)
