"""A plan is balanced, finds what exists, and refuses what cannot be compared."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.core import InputError, load_experiment
from jaxdl.core.codec import digest, dump
from jaxdl.core.records import PASSPORT, RESULT, Passport, Result, write_json
from jaxdl.search import make_plan
from jaxdl.train import build, training_batches

EXPERIMENT = """
from jaxdl.core import Experiment
from jaxdl.data import Crop, Digits, Scale
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW, Constant
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate


def base():
    return Experiment(
        model=MLP(widths=(8, 8), classes=10),
        task=Classification(),
        data=Digits(batch=64, eval_batch=120, train_transform=(Scale(0, 16), Crop(1))),
        optim=AdamW(peak_lr=1e-2, schedule=Constant()),
        steps=20,
        seed=3,
    )


ABLATIONS = {
    "slow": {"optim.peak_lr": 1e-4},
    "wide": {"model.widths": (8, 24)},
    "short": {"steps": 10},
}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish(cell, sets=(), seconds=10.0, status="done"):
    """Leaves what a run of `cell` leaves."""
    exp, _ = load_experiment(f"exp.py:{cell.variant}", [*sets, f"seed={cell.seed}"])
    cell.run.mkdir(parents=True, exist_ok=True)
    empty = {name: {} for name in ("code", "versions", "data", "devices", "flags")}
    told = Passport(dump(exp), digest(exp), "exp.py", "", seed=cell.seed, **empty)
    write_json(cell.run / PASSPORT, told)
    metrics = {"valid": {"accuracy": 0.5 + cell.seed / 100}}
    result = Result(status, exp.steps, seconds, exp.task.primary, metrics)
    write_json(cell.run / RESULT, result)


def test_whole_seeds_come_first_and_base_before_all(place):
    plan = make_plan("exp.py", seeds=2)
    assert [(cell.seed, cell.variant) for cell in plan.cells] == [
        *((3, name) for name in ("base", "slow", "wide", "short")),
        *((4, name) for name in ("base", "slow", "wide", "short")),
    ]
    some = make_plan("exp.py", seeds=1, only=["wide"], sets=["seed=8"])
    assert [(cell.seed, cell.variant) for cell in some.cells] == [(8, "base"), (8, "wide")]


def test_a_run_is_where_training_by_hand_puts_it(place):
    cell = make_plan("exp.py", seeds=2, sets=["steps=9"], only=["wide"]).cells[3]
    exp, _ = load_experiment("exp.py:wide", ["steps=9", "seed=4"])
    assert cell.run == Path(f"runs/exp/wide-{digest(exp)}")
    elsewhere = make_plan("exp.py", seeds=1, directory=Path("there"))
    assert elsewhere.folder == Path("there")
    assert {cell.run.parent for cell in elsewhere.cells} == {Path("there")}


def test_the_command_is_that_of_a_run_by_hand(place):
    plan = make_plan("exp.py", seeds=2, sets=["data.batch=32", "seed=6"], only=["slow"])
    cell = plan.cells[3]
    assert plan.arguments(cell) == [
        *("train", "exp.py:slow", "--set", "data.batch=32", "--set", "seed=7"),
        *("--run-dir", str(cell.run)),
    ]


def test_what_is_finished_counts_and_tells_the_time(place):
    plan = make_plan("exp.py", seeds=3)
    assert plan.left() is None
    for cell, seconds in zip(plan.cells[:4], (10, 20, 30, 5), strict=True):
        finish(cell, seconds=seconds)
    finish(plan.cells[4], status="preempted")
    plan = make_plan("exp.py", seeds=3)
    assert [cell.variant for cell in plan.of("done")] == ["base", "slow", "wide", "short"]
    assert plan.cells[0].value == 0.53
    assert plan.left(jobs=2, overhead=1.0) == 2 * (10 + 20 + 30 + 5 + 4) / 2
    shutil.rmtree(plan.cells[3].run)
    again = make_plan("exp.py", seeds=3)
    assert again.estimate(again.cells[3], 0.0) == pytest.approx(
        10.0
    )  # half the steps of the others


@pytest.mark.parametrize("edit", ["steps=10", "hooks=()"])
def test_a_run_of_other_steps_or_hooks_is_refused(edit, place):
    cell = make_plan("exp.py", seeds=1).cells[0]
    source = EXPERIMENT.replace("seed=3,", "seed=3, hooks=(Evaluate(every=5),),")
    (place / "exp.py").write_text(source)
    finish(cell, sets=[edit])
    with pytest.raises(InputError, match=rf"{edit[:5]}.*would not compare.*--run-dir"):
        make_plan("exp.py", seeds=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"only": ["wid"]}, "no variant 'wid'; did you mean 'wide'"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"sets": ["optim.peak_lr=1"]}, "would undo the optim.peak_lr of variant 'slow'"),
        ({"sets": ["optim=jaxdl.optim:Lion"]}, "would undo the optim.peak_lr of variant 'slow'"),
        ({"sets": ["optim.peek_lr=1"]}, "did you mean 'peak_lr'"),
        ({"file": "exp.py:wide"}, "write exp.py --only wide"),
        ({"file": "none.py"}, "does not exist"),
        ({"seeds": 2, "sets": ["seed=4294967295"]}, "must lie in"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(arguments, says, place):
    with pytest.raises(InputError, match=says):
        make_plan(**{"file": "exp.py", "seeds": 1, **arguments})
    assert not (place / "runs").exists()


def test_an_edit_beside_a_variants_own_is_for_all(place):
    plan = make_plan("exp.py", seeds=1, sets=["optim.decay=0.1"], only=["slow"])
    assert len(plan.cells) == 2


@pytest.mark.parametrize(
    ("ablations", "says"),
    [("{}", "nothing to compare"), ("{'lucky': {'seed': 7}}", "'lucky' edits seed")],
)
def test_a_file_without_something_to_compare_is_refused(ablations, says, place):
    source = EXPERIMENT.partition("ABLATIONS")[0] + f"ABLATIONS = {ablations}\n"
    (place / "exp.py").write_text(source)
    with pytest.raises(InputError, match=says):
        make_plan("exp.py", seeds=1)


def test_the_variants_of_a_seed_begin_alike_and_see_the_same_batches(place):
    """Paired seeds: the same bits wherever shapes allow, and other bits with another seed."""
    plan = make_plan("exp.py", seeds=2)
    leaves, batches = {}, {}
    for cell in plan.cells[:3] + plan.cells[4:5]:
        exp, _ = load_experiment(f"exp.py:{cell.variant}", [f"seed={cell.seed}"])
        program = build(exp, jax.devices()[:1])
        flat, _ = jax.tree_util.tree_flatten_with_path(program.init().params)
        leaves[cell.variant, cell.seed] = {jax.tree_util.keystr(p): np.asarray(x) for p, x in flat}
        get = training_batches(program)
        batches[cell.variant, cell.seed] = [jax.device_get(dict(get(i))) for i in (0, 25)]
    base, slow, wide, other = leaves.values()
    assert all((base[name] == slow[name]).all() for name in base)
    shared = [n for n in base if base[n].shape == wide[n].shape and base[n].any()]
    assert len(shared) == 1  # the first kernel; what follows has other shapes, biases are 0
    assert all((base[name] == wide[name]).all() for name in shared)
    assert not any((base[name] == other[name]).all() for name in shared)
    first, *rest = batches.values()
    for found in rest[:2]:
        for a, b in zip(first, found, strict=True):
            assert all((a[name] == b[name]).all() for name in a)
    assert any((first[0][name] != rest[2][0][name]).any() for name in first[0])
