"""`import jaxdl` and `jaxdl --help` answer at once: neither imports anything heavy."""

import json
import subprocess
import sys

import pytest

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "sklearn")

REPORT = f"""
import json, sys
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""


def output(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_import_is_light():
    assert json.loads(output("import jaxdl")[-1]) == []


@pytest.mark.parametrize("argv", [["--help"], ["-h"]])
def test_help_is_light_and_names_the_commands(argv):
    lines = output(f"from jaxdl.cli import main\nassert main({argv}) == 0")
    assert json.loads(lines[-1]) == []
    assert "train" in "\n".join(lines[:-1])


def test_the_check_notices_a_heavy_import():
    assert "jax" in json.loads(output("import jax")[-1])
