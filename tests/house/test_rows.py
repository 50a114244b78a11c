"""Rows are recorded with and without workers, and merged without losing what did not run."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SUITE = """
import pytest

@pytest.mark.row("C-1", "C-2")
def test_passes(): pass

@pytest.mark.row("C-2")
@pytest.mark.parametrize("n", [1, 2])
def test_fails(n): assert n == 1

@pytest.mark.row("C-1", "C-3")
def test_skips(): pytest.skip("no device")

@pytest.fixture
def broken():
    yield
    raise ValueError

@pytest.mark.row("C-4")
def test_breaks_in_teardown(broken): pass

def test_without_row(): pass
"""


@pytest.fixture(scope="module")
def rows():
    spec = importlib.util.spec_from_file_location("rows", TESTS / "rows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_session_records_its_rows(tmp_path, workers):
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "rows.py"):
        shutil.copy(TESTS / name, tmp_path / "tests")
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-W", "ignore"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads((tmp_path / "build" / "rows.json").read_text())
    outcomes = {row: entry["outcome"] for row, entry in found.items()}
    assert outcomes == {"C-1": "pass", "C-2": "fail", "C-3": "skip", "C-4": "fail"}
    assert found["C-1"]["tests"] == [f"tests/test_suite.py::test_{n}" for n in ("passes", "skips")]


def test_merge_keeps_what_did_not_run(rows):
    committed = {"a": "pass", "b": "pass", "c": "fail"}
    last = {"b": "skip", "c": "pass", "d": "skip", "e": "fail"}
    entries = [
        {row: {"outcome": o, "tests": []} for row, o in t.items()} for t in (committed, last)
    ]
    merged = {row: entry["outcome"] for row, entry in rows.merge(*entries).items()}
    assert merged == {"a": "pass", "b": "pass", "c": "pass", "d": "skip", "e": "fail"}


def test_table_counts(rows):
    shown = rows.table({"C-1": {"outcome": "pass", "tests": ["t"]}})
    assert shown.splitlines() == [
        "row     is    tests",
        "C-1     pass     1",
        "1 pass, 0 fail, 0 skip",
    ]
