"""What every test runs under: 8 CPU devices, strict ranks, one compilation cache, recorded rows."""

import importlib.util
import os
import shutil
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
DEVICES = "--xla_force_host_platform_device_count"

# The environment, not jax.config: child processes inherit it, and jax need not be imported here.
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / "build" / "jax-cache")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# A size limit makes jax lock the cache; without one, parallel workers read half-written entries.
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**30)

# A test that was killed while it wrote leaves an entry without its time, on which jax stumbles.
for entry in (ROOT / "build" / "jax-cache").glob("*-cache"):
    if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
        entry.unlink(missing_ok=True)

# Same examples every time; compilation makes any deadline a coin toss.
hypothesis.settings.register_profile("jaxdl", deadline=None, derandomize=True)
hypothesis.settings.load_profile("jaxdl")

NEEDS = {
    "gpu": lambda: "cuda" in os.environ["JAX_PLATFORMS"] and shutil.which("nvidia-smi"),
    "tpu_aot": lambda: importlib.util.find_spec("libtpu"),
    "gpu_aot": lambda: importlib.util.find_spec("jax_cuda13_plugin"),
}


def pytest_configure(config):
    # Loaded by path: with --import-mode=importlib, tests/ is on no path.
    spec = importlib.util.spec_from_file_location("rows", Path(__file__).with_name("rows.py"))
    rows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rows)
    config.pluginmanager.register(rows.Recorder(), "rows")


def pytest_collection_modifyitems(items):
    # Once a process has loaded libtpu, to compile for absent TPUs, jax's profiler ends it.
    items.sort(key=lambda item: item.get_closest_marker("tpu_aot") is not None)


def pytest_runtest_setup(item):
    for name, present in NEEDS.items():
        if item.get_closest_marker(name) and not present():
            pytest.skip(f"this machine has nothing for {name!r}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Programs for hardware that is absent cannot be read back out of the cache on disk."""
    if not any(item.get_closest_marker(name) for name in ("tpu_aot", "gpu_aot")):
        return (yield)
    from jaxdl.core.topology import unkept

    with unkept():
        return (yield)


@pytest.fixture(scope="session")
def fetched():
    """Makes sure of real data sets by name, in the folder it returns; skips without a registry."""
    from jaxdl.core import InputError
    from jaxdl.data import fetch

    folder = ROOT / "build" / "data"

    def get(*names: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAXDL_DATA", str(folder))
            for name in names:
                fetch.entry(name)  # an unknown name is a fault of the test
                try:
                    fetch.get(name)
                except InputError as error:
                    if "expected content" in str(error):
                        raise
                    pytest.skip(f"{name} cannot be fetched here: {error}")
        return folder

    return get
