"""The process of one peer: `python -m jaxdl.bench.worker`, spoken to in lines of JSON.

The first line names the function; its answer says what the start took. Each further line is a
number of steps, answered by what they took.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

WARMUP = 2


def main() -> None:
    """Builds the peer, then takes turns until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not look like an answer
    order = json.loads(sys.stdin.readline())
    if order["core"] is not None:
        os.sched_setaffinity(0, {order["core"]})
    module, function = order["function"].split(":")
    imported = importlib.import_module(module)

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    start = time.perf_counter()
    run, info = getattr(imported, function)(**order["kwargs"])
    for _ in range(WARMUP):
        run(1)
    answer({"compile_s": round(time.perf_counter() - start, 3), **info})
    for line in sys.stdin:
        steps = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        loss = run(steps)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        answer({"wall": wall / steps, "cpu": cpu / steps, "loss": loss, "rss": peak_rss()})


def peak_rss() -> float | None:
    """Peak resident memory of this process in MB; None where /proc does not tell it."""
    # getrusage would count what the parent held when it started this process.
    try:
        with open("/proc/self/status") as lines:
            peak = next(line for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return round(int(peak.split()[1]) / 1024, 1)


if __name__ == "__main__":
    main()
