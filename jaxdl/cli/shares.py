"""The machine divided among several runs at a time."""

from __future__ import annotations

import os
import subprocess
import sys

from jaxdl.core.errors import InputError

ASK = "import jax; print(jax.default_backend(), jax.local_device_count())"
VISIBLE = "CUDA_VISIBLE_DEVICES"

Share = tuple[dict[str, str], tuple[int, ...]]
"""Environment and cores of one run."""


def shares_of(jobs: int) -> list[Share]:
    """What each of so many runs gets; alone a run has everything.

    Raises: InputError where there is not a core, or a GPU, for each, or where the accelerator
    serves one process only.
    """
    if jobs < 1:
        raise InputError(f"jobs={jobs} must be at least 1.")
    if jobs == 1:
        return [({}, ())]
    platform, count = _devices()
    if platform == "cpu":
        return _cores(jobs)
    if platform != "gpu":
        raise InputError(f"jobs={jobs}: a {platform} serves one process at a time; use --jobs 1.")
    if jobs > count:
        raise InputError(
            f"jobs={jobs}: runs that share a GPU take each other's memory and time, and here are "
            f"{count}; use --jobs {count}."
        )
    named = os.environ.get(VISIBLE, "").split(",")
    gpus = named if len(named) == count and all(named) else [str(i) for i in range(count)]
    return [({VISIBLE: ",".join(gpus[i::jobs])}, ()) for i in range(jobs)]


def _cores(jobs: int) -> list[Share]:
    if not hasattr(os, "sched_getaffinity"):
        return [({}, ())] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise InputError(
            f"jobs={jobs} needs a core for each run, and this process has {len(cores)}; use "
            f"--jobs {len(cores)}."
        )
    # As many for each: XLA rounds otherwise with other numbers of threads, and pairs must not.
    return [({}, tuple(cores[i::jobs][: len(cores) // jobs])) for i in range(jobs)]


def _devices() -> tuple[str, int]:
    """Platform and number of devices; another process looks, as one that looks may keep them."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", 1
    found = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    if found.returncode:
        raise InputError(f"jax finds no device here: {found.stderr.strip().splitlines()[-1]}")
    platform, count = found.stdout.split()[-2:]
    return platform, int(count)
