"""Timing of asynchronous work: warm up, wait, repeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax


def measure(
    fn: Callable[[], Any],
    *,
    repeats: int = 10,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> list[float]:
    """Seconds of each of `repeats` calls of `fn`, each waited for until its result is ready.

    `warmup` calls before them (compilation, caches) are not counted. Compare medians of interleaved
    measurements; a single time on a shared machine says little.
    """
    for _ in range(warmup):
        wait(fn())
    seconds = []
    for _ in range(repeats):
        start = clock()
        wait(fn())
        seconds.append(clock() - start)
    return seconds
