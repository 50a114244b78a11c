"""`jaxdl train --from RUN` in real runs: to the same bits, or a word on what is not as it was."""

from pathlib import Path

import pytest

from jaxdl.core.loading import load_file
from jaxdl.core.records import read_passport, read_records, read_result

world_file = load_file(Path(__file__).parents[1] / "report" / "world.py")
edit = world_file.edit


def numbers(run):
    told = [(r.step, r.split, r.values) for r in read_records(run) if r.split != "perf"]
    return told, read_result(run).metrics


def jaxdl(world, *argv, path="", **env):
    return world.python("-m", "jaxdl", *argv, path=path, **env)


def dirty(world):
    """What is not committed as the run is made."""
    edit(world.tree / "jaxdl/models/mlp.py", "nn.relu", "nn.tanh")
    edit(world.lab / "exp.py", "widths=(16,)", "widths=(8,)")
    offset = 'import jax\njax.config.update("jax_random_seed_offset", 7)\nFIRST = 0'
    edit(world.lab / "exp.py", "FIRST = 0", offset)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world with a run whose code was not committed."""
    world = world_file.make(tmp_path_factory.mktemp("world"))
    dirty(world)
    run = world.top / "run"
    told = jaxdl(world, "train", "exp.py:folder", "--set", "seed=3", "--run-dir", run, "--json")
    assert told.returncode == 0, told.stderr
    return world


@pytest.fixture
def run(world):
    """That run, in a world as it was then."""
    world_file.restore(world)
    dirty(world)
    return world.top / "run"


CASES = {
    "code": (
        lambda w: edit(w.tree / "jaxdl/models/mlp.py", "nn.tanh", "nn.silu"),
        {},
        ("code jaxdl/models/mlp.py:", "nn.tanh", "nn.silu"),
    ),
    "code that was not committed": (
        world_file.restore,
        {},
        ("code jaxdl/models/mlp.py:", "code exp.py:", "environment jax_random_seed_offset: 7 -> 0"),
    ),
    "a package": (
        lambda w: world_file.other_optax(w, "9.9.9"),
        {},
        ("versions optax:", "-> 9.9.9"),
    ),
    "a byte of data": (world_file.other_pixel, {}, ("data train:",)),
    "a variable": (lambda w: None, {"MY_SCALE": "1.5"}, ("environment MY_SCALE: absent ->",)),
    "devices": (
        lambda w: None,
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        ("devices count: 1 -> 2", "environment XLA_FLAGS:"),
    ),
}


@pytest.mark.slow
@pytest.mark.row("C-004")
def test_a_run_of_code_that_was_not_committed_is_repeated_to_the_bit(world, run):
    told = jaxdl(world, "train", "--from", run, "--json", "--run-dir", world.top / "again")
    assert told.returncode == 0 and f"the same numbers as {run}" in told.stderr, told.stderr
    assert numbers(world.top / "again") == numbers(run)
    assert read_passport(run).seed == 3 and read_passport(run).code["jaxdl"]["diff"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_passport_that_cannot_be_honoured_says_what_differs(case, world, run):
    act, env, words = CASES[case]
    told = jaxdl(world, "train", "--from", run, path=str(act(world) or ""), **env)
    assert told.returncode == 2 and "--anyway" in told.stderr, told.stderr
    assert all(word in told.stderr for word in words), told.stderr
    lines = [line for line in told.stderr.splitlines() if line.startswith("  ")]
    kinds = {line.split()[0] for line in lines}
    assert kinds == {word.split()[0] for word in words if ":" in word}
    assert not run.with_name("run-again").exists()


@pytest.mark.slow
def test_anyway_the_numbers_part_and_it_says_where(world, run):
    world_file.other_pixel(world)
    again = world.top / "anyway"
    told = jaxdl(world, "train", "--from", run, "--anyway", "--json", "--run-dir", again)
    assert told.returncode == 0 and "data train:" in told.stderr
    assert f"the numbers part from {run} at step" in told.stderr, told.stderr
