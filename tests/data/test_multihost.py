"""Real processes: together they hold exactly what a single process loads, in the same order."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HOST = Path(__file__).with_name("host.py")
ROOT = HOST.parents[2]


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start(processes):
    """What each of so many processes, with two devices each, prints."""
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(HOST), str(free_port()), str(processes)]
    running = [
        subprocess.Popen(
            [*command, str(p)], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for p in range(processes)
    ]
    try:
        ended = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, stderr) in zip(running, ended, strict=True):
        assert process.returncode == 0, stderr
    return [json.loads(stdout.splitlines()[-1]) for stdout, _ in ended]


@pytest.mark.multihost
@pytest.mark.row("D-009")
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_read_disjoint_rows_that_make_up_the_single_process_batch(processes):
    spec = importlib.util.spec_from_file_location("host", HOST)
    host = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    single = host.loader()
    whole = {n: single(n) for n in host.ASKED}

    places = []
    for process, held in enumerate(start(processes)):
        for n, name, low, high, digest in held:
            assert digest == host.digest(whole[n][name][low:high]), (process, n, name)
            places += [(n, name, row) for row in range(low, high)]
    assert len(places) == len(set(places))
    assert len(places) == len(host.ASKED) * len(whole[0]) * host.BATCH
