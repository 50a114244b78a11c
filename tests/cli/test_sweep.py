"""`jaxdl sweep`: what it prints, writes and refuses, with real training."""

import json
import sys
from types import SimpleNamespace

import pytest
from optuna.exceptions import StorageInternalError

from jaxdl.cli import sweep
from jaxdl.core.loading import load_experiment
from jaxdl.core.records import read_passport, read_result
from jaxdl.search.space import Choice

pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
SPACE = """
from jaxdl.search.space import Choice, LogUniform

SPACE = {"optim.peak_lr": Choice((1e-2, 1e-5)), "model.widths": Choice(((16,),))}
WRONG = {"optim.peek_lr": LogUniform(1e-4, 1e-2)}
"""


@pytest.fixture
def spaced(place):
    with (place / "exp.py").open("a") as file:
        file.write(SPACE)
    return place


def test_a_sweep_trains_shows_and_writes_the_best(jaxdl, spaced):
    argv = ("sweep", "exp.py", "--sampler", "grid", "--set", "steps=10", "--jobs", "2")
    told = jaxdl(*argv)
    assert told.code == 0, told.err
    folder = spaced / "runs" / "exp" / "sweep-space"
    words = " ".join(told.out.split())
    for part in (
        "exp.py: 2 trials, by grid, into runs/exp/sweep-space",
        "2 done",
        "best trials valid/accuracy optim.peak_lr model.widths 0 ",
        "jaxdl train exp.py --set steps=10 --set optim.peak_lr=0.01 --set 'model.widths=(16,)'",
        "runs/exp/sweep-space/best.py",
    ):
        assert part in words, told.out
    assert (folder / "parallel.png").read_bytes()[1:4] == b"PNG"
    for n in range(2):
        run = folder / f"trial-{n:04d}"
        assert read_result(run).status == "done"
        assert read_passport(run).experiment["optim"]["peak_lr"] == (1e-2, 1e-5)[n]
    best, _ = load_experiment(str(folder / "best.py"))
    assert best == load_experiment("exp.py", ["steps=10", "optim.peak_lr=0.01"])[0]

    again = jaxdl(*argv, "--json")
    (line,) = map(json.loads, again.out.splitlines())
    (first,) = line["best"]
    assert first["values"]["valid/accuracy"] == read_result(folder / "trial-0000").best["value"]
    assert first["set"] == {"optim.peak_lr": 0.01, "model.widths": "(16,)"}
    assert (first["trial"], first["run"]) == (0, "runs/exp/sweep-space/trial-0000")

    other = jaxdl(*argv, "--seed", "1")
    assert other.code == 2 and "seed 0' there, 'grid with seed 1' here" in other.words

    for file in folder.glob("study.db*"):
        file.unlink()
    lost = jaxdl(*argv)
    assert lost.code == 2 and "sweep-space holds trials of a study that its storage" in lost.words


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--space", "WRONG"], "Experiment.optim: AdamW has no field 'peek_lr'; did you mean"),
        (["--space", "SPICE"], "no space 'SPICE'; did you mean 'SPACE'"),
        (["--set", "hooks=()", "--pruner", "median"], "nothing to judge valid/accuracy by: add Ev"),
        (
            ["--objective", "valid/accuracy,seconds", "--pruner", "median"],
            "prunes by one objective",
        ),
        (["--objective", "accuracy"], "neither split/metric, like valid/accuracy, nor one of"),
        (["--sampler", "cmaes"], "at least two numbers to search"),
        (["--jobs", "0"], "jobs=0 must be at least 1"),
        (["--trials", "0"], "trials=0 must be at least 1"),
        (["--storage", "mysql://x/y"], "needs a driver"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(argv, told, jaxdl, spaced):
    found = jaxdl("sweep", "exp.py", *argv)
    assert found.code == 2 and told in found.words, found.err
    assert not list(spaced.glob("runs/exp/*/trial*"))


def test_brackets_of_a_choice_are_shown(capsys):
    space = {"model.stages[0]": Choice(([16], [32]))}
    plan = SimpleNamespace(spec="x.py", folder="runs", space=space)
    study = SimpleNamespace(rows=list, total=2)
    sweep._introduce(plan, study, SimpleNamespace(sampler="random", pruner="none"))
    told = capsys.readouterr().out
    assert "model.stages[0]" in told and "[16]" in told and "[32]" in told


def test_a_fault_of_the_default_storage_names_it(jaxdl, spaced, monkeypatch):
    def fail(self):
        raise StorageInternalError("disk I/O error")

    monkeypatch.setattr(sweep.Sweep, "run", fail)
    told = jaxdl("sweep", "exp.py")
    assert told.code == 2
    assert "sqlite:///runs/exp/sweep-space/study.db does not answer (disk I/O error)" in told.words


def test_a_file_without_a_space_says_how_to_write_one(jaxdl, place):
    told = jaxdl("sweep", "exp.py")
    assert told.code == 2
    assert "no space 'SPACE'; write SPACE = {\"optim.peak_lr\": LogUniform(1e-4, 1e-2)}" in told.err


def test_without_optuna_the_extra_is_named(jaxdl, spaced, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("jaxdl.search.study", "jaxdl.cli.sweep"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    told = jaxdl("sweep", "exp.py")
    assert told.code == 2
    assert "a sweep needs optuna; install it with: pip install 'jaxdl[search]'" in told.words
