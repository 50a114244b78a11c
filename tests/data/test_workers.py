"""Reading processes: the same batches as without them, whatever becomes of one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.core.names import load_file
from jaxdl.data import Digits, Workers, batches, prefetch

OWN = '''
import os
import time
from dataclasses import dataclass

import jax
import ml_dtypes
import numpy as np

from jaxdl.core.errors import InputError
from jaxdl.data import Crop, Splits


class Counting:
    """Example i is i, slowly; some are torn."""

    spec = {
        "x": jax.ShapeDtypeStruct((2,), np.int32),
        "y": jax.ShapeDtypeStruct((), "bfloat16"),
        "image": jax.ShapeDtypeStruct((3, 3, 1), np.float32),
    }
    fingerprint = "counting"

    def __init__(self, n, torn):
        self.n, self.torn = n, torn

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        print("reading", i)
        with open("read", "a") as file:
            file.write(".")
        time.sleep(1e-3)
        if i == self.torn:
            raise InputError(f"example {i} is torn")
        if i == self.torn + 1:
            raise KeyError(i)
        image = np.arange(i, i + 9, dtype=np.float32).reshape(3, 3, 1)
        who = np.array([i, os.getpid()], np.int32)
        return {"x": who, "y": ml_dtypes.bfloat16(i), "image": image}


@dataclass(frozen=True)
class Own(Splits):
    n: int = 1000
    torn: int = -2

    def train(self):
        return Counting(self.n, self.torn)

    def plan(self, split):
        return identity if self.torn >= 0 else None


    def transform(self, split):
        return Crop(1)


def identity(seed, e):
    return e
'''


@pytest.fixture
def started():
    """`Workers` on what is given, ended after the test."""
    made = []

    def start(config, **kw):
        made.append(Workers(config, **{"batch": 8, "seed": 5, "count": 2} | kw))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module of an experiment file: a class that no package holds."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    return load_file("own.py")


def alive(pid):
    """Whether a process runs; one that has ended but was not yet asked for its code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def assert_same(a, b):
    assert a.keys() >= b.keys() >= {"y", "image"}
    for name in b:
        assert a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]), name


@pytest.mark.row("X-033", "D-006")
def test_any_number_of_processes_makes_the_same_batches(started, own):
    config = own.Own()
    here = batches(config.train(), batch=8, seed=5, transform=config.transform("train"))
    one, two = started(config, count=1), started(config, rows=np.array([1, 4, 5]))
    for n in [*range(12), 5, 4, 5, 6, 200, 201, 0]:
        expected = {name: leaf for name, leaf in here(n).items() if name != "x"}
        assert_same(one(n), expected)
        assert_same(two(n), {name: leaf[[1, 4, 5]] for name, leaf in expected.items()})


@pytest.mark.row("X-033", "D-006")
def test_a_class_of_an_experiment_file_is_read_by_both_once_an_epoch(started, own):
    get, read = started(own.Own(n=64)), Path("read")
    get(0)
    assert wait_until(lambda: read.stat().st_size == 4 * 8), "two batches of each process"
    time.sleep(0.1)
    assert read.stat().st_size == 4 * 8, "and no more before they are asked for"
    seen = np.concatenate([get(n)["x"] for n in range(8)])
    assert sorted(seen[:, 0]) == list(range(64))
    assert get(0)["y"].dtype.name == "bfloat16"
    pids = set(seen[:, 1].tolist())
    assert len(pids) == 2 and os.getpid() not in pids and all(map(alive, pids))
    get.close()
    assert not any(map(alive, pids))


@pytest.mark.row("X-033", "D-006")
def test_an_error_in_a_process_names_the_batch_and_hurts_no_other(started, own):
    config = own.Own(torn=23)  # in batch 2; 24 in batch 3
    read = started(config)
    get = prefetch(read, depth=4)
    assert [get(n)["x"][0, 0] for n in (0, 1)] == [0, 8]
    with pytest.raises(InputError, match="batch 2: example 23 is torn"):
        get(2)
    with pytest.raises(
        RuntimeError, match=r"batch 3 failed in a reading process(?s:.*)KeyError: 24"
    ):
        get(3)
    assert get(4)["x"][0, 0] == 32
    with pytest.raises(InputError, match="batch 2"):
        get(2)
    get.close()


@pytest.mark.row("X-033")
def test_a_killed_process_is_an_error_that_names_it(started, own):
    get = started(own.Own())
    pid = int(get(0)["x"][0, 1])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(
        RuntimeError, match=rf"process 0 \(pid {pid}\) was killed by SIGKILL.*; batch \d is lost"
    ):
        for n in range(1, 8):
            get(n)
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        get(8)


PARENT = """
import os
import signal
from jaxdl.core.names import load_file
from jaxdl.data import Workers

get = Workers(load_file("own.py").Own(), batch=8, seed=0, count=2)
pids = [int(get(n)["x"][0, 1]) for n in range(2)]
print(*pids, flush=True)
for pid in pids:
    os.kill(pid, signal.SIGTERM)  # as schedulers do to all of a job, so that the run saves itself
print(*(len(get(n)["x"]) for n in range(2, 10)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processes_end_with_a_parent_that_is_killed_and_no_sooner(own):
    done = subprocess.run(
        [sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=60
    )
    pids, lengths = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    assert done.returncode == -signal.SIGKILL and len(pids) == 2 and lengths == [8] * 8
    assert wait_until(lambda: not any(map(alive, pids)))


def test_what_cannot_work_is_refused(own):
    with pytest.raises(InputError, match="count=0"):
        Workers(own.Own(), batch=8, seed=0, count=0)

    class Hidden(Digits):
        pass

    with pytest.raises(InputError, match="move it to module level"):
        Workers(Hidden(), batch=8, seed=0, count=1)
