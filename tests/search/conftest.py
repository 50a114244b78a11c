"""Workers of a sweep, in this process and in others."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="session")
def worker():
    """The module worker.py."""
    spec = importlib.util.spec_from_file_location("sweep_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workers():
    """Starts worker.py as a process; those left are killed."""
    started = []

    def begin(folder, total, **options):
        given = json.dumps({"folder": str(folder), "total": total} | options)
        started.append(subprocess.Popen([sys.executable, str(WORKER), given]))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
