"""`jaxdl report` and `jaxdl power` on run directories that were made up."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from jaxdl.core.loading import load_file

synthetic = load_file(Path(__file__).parents[1] / "report" / "synthetic.py")
ACCURACY = {
    "base": [0.960, 0.965, 0.955, 0.962],
    "wide": [0.971, 0.974, 0.966, 0.973],
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two variants with four seeds in runs/exp of the working directory."""
    monkeypatch.chdir(tmp_path)
    for i, (variant, values) in enumerate(ACCURACY.items()):
        for seed, value in enumerate(values):
            synthetic.write_run(
                tmp_path / "runs" / "exp" / f"{variant}-{seed}",
                variant,
                seed,
                synthetic.both(accuracy=value),
                source=f"exp.py{f':{variant}' * i} seed={seed}",
                model=synthetic.EXPERIMENT["model"] | {"widths": [16 << i]},
            )
    return Path("runs")


def objects(told):
    assert told.code == 0, told.err
    return [json.loads(line) for line in told.out.splitlines()]


@pytest.mark.row("C-040")
def test_a_folder_of_runs_is_listed_and_compared(jaxdl, runs):
    told = jaxdl("report", runs)
    assert told.code == 0 and told.err == ""
    listed = [line.split() for line in told.out.splitlines() if " done" in line]
    assert len(listed) == 8 and ["wide-3", "wide", "3", "0.9730", "100", "10.0", "done"] in listed
    assert "wide: better by 1.05" in told.out
    page = Path("build/report/report.html")
    assert str(page) in told.out and "wide" in page.read_text()


def test_runs_are_grouped_by_a_field(jaxdl, runs):
    found = objects(jaxdl("report", runs, "--by", "model.widths.0", "--json", "--out", "out"))
    assert {line["variant"] for line in found} == {"model.widths.0=16", "model.widths.0=32"}
    assert sum(line["headline"] for line in found) == 2
    told = jaxdl("report", runs, "--by", "model.width.0")
    assert told.code == 2 and "did you mean 'model.widths.0'" in told.words


def test_the_base_is_chosen_and_a_wrong_one_is_suggested(jaxdl, runs):
    found = objects(jaxdl("report", runs, "--base", "wide", "--json"))
    (base,) = (o for o in found if o["metric"] == "test/accuracy" and o["variant"] == "base")
    assert base["verdict"].startswith("worse by") and base["paired"] is True
    assert base["difference"] == pytest.approx(-0.0105)
    told = jaxdl("report", runs, "--base", "wid")
    assert told.code == 2 and "did you mean 'wide'" in told.words


def test_sources_of_several_files_and_edits_are_told_apart(jaxdl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = ("a/exp.py seed=0", "b/exp.py:x seed=0 optim.decay=0.1", "c/other.py")
    for i, source in enumerate(sources):
        synthetic.write_run(
            tmp_path / "runs" / str(i), "", i, synthetic.both(accuracy=0.5), source=source
        )
    told = jaxdl("report", "runs", "--json")
    assert told.code == 2 and "--base a/exp:base" in told.words and "other:base" in told.words
    found = objects(jaxdl("report", "runs", "--json", "--base", "other:base"))
    assert {o["variant"] for o in found} == {
        "a/exp:base",
        "b/exp:x optim.decay=0.1",
        "other:base",
    }


def test_the_base_is_the_one_by_its_name_and_never_guessed(jaxdl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = ("a/exp.py:deep seed=0", "b/other.py seed=0", "b/other.py lr=[1] seed=0")
    for i, source in enumerate(sources):
        place = tmp_path / "runs" / "exp" / str(i)
        synthetic.write_run(place, "", 0, synthetic.both(accuracy=0.5), source=source)
    told = jaxdl("report", "runs/exp")
    assert told.code == 0 and "other:base" in told.out and "minus other:base" in told.out
    assert jaxdl("report", "runs/exp", "--base", "other:base lr=[1]").out.count("lr=[1]") >= 3
    told = jaxdl("report", "runs/exp/0", "runs/exp/2")
    assert told.code == 2 and "--base exp:deep" in told.words


def test_the_trials_of_a_sweep_are_taken_only_by_name(jaxdl, runs):
    place = runs / "exp" / "sweep-default"
    source = "exp.py optim.peak_lr=0.1 seed=0"
    synthetic.write_run(place / "trial-0", "", 0, synthetic.both(accuracy=0.5), source=source)
    found = objects(jaxdl("report", runs, "--json"))
    assert {o["variant"] for o in found} == {"base", "wide"}
    (found, _) = objects(jaxdl("report", place, "--json"))
    assert found["variant"] == "base optim.peak_lr=0.1"


def test_runs_that_cannot_be_read_are_told_and_the_others_compared(jaxdl, runs):
    for name, damage in (("wide-3", b'{"schema": 2}'), ("base-1", b"\xff")):
        (runs / "exp" / name / "passport.json").write_bytes(damage)
    told = jaxdl("report", runs)
    assert told.code == 0 and "wide: better by" in told.out and "2 of 8 runs do not" in told.out
    assert "unknown: no run counts; 2 of 2 seeds failed" in told.out
    page = Path("build/report/report.md").read_text()
    assert "schema 2, this version reads 1; install the version" in page and "damaged" in page
    told = jaxdl("report", runs / "exp" / "wide-3")
    assert told.code == 2 and "schema 2" in told.words


@pytest.mark.parametrize("command", ["report", "power"])
def test_places_without_runs_are_refused(jaxdl, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for place in ("empty", "nowhere"):
        told = jaxdl(command, place)
        assert told.code == 2 and place in told.words and "Traceback" not in told.err
    assert jaxdl(command).code == 2


def test_power_tells_the_seeds_from_the_spread(jaxdl, runs):
    told = jaxdl("power", "exp.py", "--effect", "0.005")
    assert told.code == 0 and "deviation of paired differences 0.10 points" in told.out
    found = objects(jaxdl("power", "exp.py", "--effect", "0.005", "--json"))
    (unpaired, paired) = (o for o in found if "effect" in o)
    assert paired["sd"] == pytest.approx(0.001, rel=1e-6)
    assert paired["seeds_needed"] < unpaired["seeds_needed"]
    table = [o for o in found if o["paired"] and "detectable" in o]
    assert [o["seeds"] for o in table] == [3, 5, 10, 20, 50]
    assert all(a["detectable"] > b["detectable"] for a, b in pairwise(table))


def test_power_asks_for_seeds_where_there_are_too_few(jaxdl, runs):
    told = jaxdl("power", runs / "exp" / "base-0", runs / "exp" / "base-1")
    assert told.code == 2 and "the most is 2" in told.words and "--set seed" in told.words
    told = jaxdl("power", "experiments/new.py")
    assert told.code == 2 and "runs/new" in told.words
    for option in (("--power", "1.5"), ("--effect", "-1")):
        assert jaxdl("power", "exp.py", *option).code == 2
