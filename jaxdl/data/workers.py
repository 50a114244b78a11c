"""Batches prepared by processes of their own, for data whose decoding keeps one core too busy."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdl.core.codec import dump, load
from jaxdl.core.errors import InputError
from jaxdl.data.loader import batches

AHEAD = 2
"""Batches a process has been asked for: the one it makes, or waits to hand over, and the next."""


class Workers:
    """`get(n) -> batch n` of the training split, as `batches` makes it, from `count` processes.

    Process n % count makes batch n, and those that follow in the background; whatever their number,
    batch n is the same. Each process builds `config` anew from its JSON form, and no process
    touches a device. They end with `close`, and when this process ends in whatever way.

    An error in a process is raised by the call that asks for its batch.

    Shapes: numpy leaves [len(rows), ...], the `rows` of each batch (default: all).
    Raises: InputError for a count below 1 and for a `config` that does not serialise; RuntimeError,
    from the call, where a process died.
    """

    def __init__(
        self, config: Any, *, batch: int, seed: int, count: int, rows: np.ndarray | None = None
    ):
        """Starts the processes."""
        if count < 1:
            raise InputError(f"count={count} must be at least 1.")
        rows = np.arange(batch) if rows is None else rows
        job = {"config": dump(config), "batch": batch, "seed": seed, "rows": rows.tolist()}
        self._next = self._asked = 0
        self._processes = [_start(job) for _ in range(count)]

    def __call__(self, n: int) -> Mapping[str, np.ndarray]:
        """Batch n, waiting for it where it is not ready; n, n + 1, ... is fast."""
        if n != self._next:
            for stale in range(self._next, self._asked):
                with contextlib.suppress(Exception):
                    self._receive(stale)
            self._asked = n
        self._next = n + 1
        while self._asked < n + AHEAD * len(self._processes):
            self._ask(self._asked)
            self._asked += 1
        return self._receive(n)

    def close(self) -> None:
        """Ends the processes at once: they hold nothing that is worth keeping."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()

    def _ask(self, n: int) -> None:
        requests = self._processes[n % len(self._processes)].stdin
        with contextlib.suppress(BrokenPipeError):  # its death is told when its answer is missed
            requests.write(b"%d\n" % n)
            requests.flush()

    def _receive(self, n: int) -> dict[str, np.ndarray]:
        answers = self._processes[n % len(self._processes)].stdout
        line = answers.readline()
        if not line:
            raise self._death(n)
        answer = json.loads(line)
        if "refused" in answer:
            raise InputError(f"batch {n}: {answer['refused']}")
        if "failed" in answer:
            raise RuntimeError(f"batch {n} failed in a reading process:\n{answer['failed']}")
        leaves = {}
        for name, dtype, shape in answer["leaves"]:
            leaves[name] = np.empty(shape, dtype)
            raw = leaves[name].reshape(-1).view(np.uint8)
            if answers.readinto(raw) < len(raw):
                raise self._death(n)
        return leaves

    def _death(self, n: int) -> RuntimeError:
        k = n % len(self._processes)
        code = self._processes[k].wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return RuntimeError(
            f"reading process {k} (pid {self._processes[k].pid}) {how}{why}; batch {n} is lost. "
            "Run again to resume, with fewer workers where memory is short."
        )


def _start(job: dict) -> subprocess.Popen:
    code = "from jaxdl.data.workers import work; work()"
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64)),
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        start_new_session=True,  # Ctrl-C is for the run, which ends its processes itself
    )
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    return process


def work() -> None:
    """What a process of `Workers` runs: answers batch numbers with batches until its input ends.

    An answer is a line of JSON and, for a batch, the bytes of its leaves.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a preempted run still finishes its update
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what sources print goes to stderr, not between the answers
    job, get = json.loads(requests.readline()), None
    with contextlib.suppress(BrokenPipeError):  # the run has ended
        for line in requests:
            try:
                get = get or _batches(job)
                batch = {name: np.ascontiguousarray(leaf) for name, leaf in get(int(line)).items()}
                leaves = [(name, _dtype(leaf), leaf.shape) for name, leaf in batch.items()]
                raw = [leaf.reshape(-1).view(np.uint8) for leaf in batch.values()]
                answer = {"leaves": leaves}
            except InputError as error:
                raw, answer = [], {"refused": str(error)}
            except Exception:
                raw, answer = [], {"failed": traceback.format_exc()}
            answers.write(json.dumps(answer).encode() + b"\n")
            for part in raw:
                answers.write(part)
            answers.flush()


def _batches(job: dict) -> Callable[[int], Mapping[str, np.ndarray]]:
    config = load(job["config"])
    return batches(
        config.train(),
        batch=job["batch"],
        seed=job["seed"],
        plan=config.plan("train"),
        transform=config.transform("train"),
        rows=np.array(job["rows"]),
    )


def _dtype(leaf: np.ndarray) -> str:
    """A name that numpy knows; those of bfloat16 and the like are not in `dtype.str`."""
    return leaf.dtype.name if leaf.dtype.kind == "V" else leaf.dtype.str
