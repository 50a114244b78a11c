"""A study says what its run directories say, in numbers and in words."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxdl import report
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.core.records import PASSPORT, read_result
from jaxdl.report.stats import Difference, compare, holm
from jaxdl.report.words import fixed, probability, scale_of, verdict

synthetic = load_file(__file__.replace("test_comparison", "synthetic"))
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
ACCURACY = {
    "base": [0.960, 0.965, 0.955, 0.962, 0.958],
    "better": [0.971, 0.974, 0.966, 0.973, 0.967],
    "worse": [0.940, 0.946, 0.935, 0.940, 0.939],
    "null": [0.960, 0.965, 0.955, 0.962, 0.958],
    "vague": [0.970, 0.955, 0.957, 0.952, 0.966],
}


@pytest.fixture
def cells(tmp_path):
    return [
        synthetic.write_run(
            tmp_path / f"{variant}-{seed}", variant, seed, synthetic.both(accuracy=value)
        )
        for variant, values in ACCURACY.items()
        for seed, value in enumerate(values)
    ]


def told(cells, **options):
    return report.study(cells, title="t", **options)


@pytest.mark.row("R-028")
def test_verdicts_in_plain_words(cells):
    found = told(cells).verdicts
    gaps = np.subtract(ACCURACY["better"], ACCURACY["base"])
    assert found["better"].startswith(f"better by {100 * gaps.mean():.2f} \N{PLUS-MINUS SIGN} 0.1")
    assert found["better"].endswith(" points")
    assert found["worse"].startswith("worse by 2.00 \N{PLUS-MINUS SIGN} ")
    assert found["null"] == "no difference: the same numbers as base in all 5 seeds"
    assert found["vague"].startswith("no difference larger than ")
    assert "points can be seen with 5 seeds" in found["vague"]


def test_the_variants_are_corrected_together_and_compared_in_pairs(cells):
    metric = told(cells).headline
    pairs = {
        v: compare(dict(enumerate(ACCURACY["base"])), dict(enumerate(values)), 0.001)
        for v, values in ACCURACY.items()
        if v != "base"
    }
    corrected = holm({v: found.p for v, found in pairs.items()})
    for variant, found in pairs.items():
        row = metric.row(variant)
        assert row.found.paired and row.found.p == pytest.approx(found.p, rel=1e-6, abs=1e-12)
        assert row.corrected == pytest.approx(corrected[variant], rel=1e-6, abs=1e-12)
    assert metric.row("base").found is None and metric.row("base").verdict == ""


def test_the_headline_is_the_test_split_of_the_primary_and_its_way_is_the_tasks(tmp_path):
    cells = [
        synthetic.write_run(
            tmp_path / f"{variant}{seed}",
            variant,
            seed,
            {"valid": {"score": value, "loss": 1.0}, "test": {"loss": 1.0, "score": value}},
            primary="valid/score",
            task={"primary": "valid/score", "mode": "min"},
        )
        for variant, start in (("base", 3.0), ("low", 1.0))
        for seed, value in enumerate(start + np.array([0.0, 0.1, 0.3]))
    ]
    found = told(cells)
    assert [m.name for m in found.metrics][:2] == ["test/score", "valid/score"]
    assert found.headline.scale.mode == "min" and not found.headline.scale.share
    assert found.verdicts["low"].startswith("better by 2.0"), "said by the task, against the name"
    assert told(cells, base="low").verdicts["base"].startswith("worse by 2.0")


def test_what_fails_is_shown_and_counted(cells, tmp_path):
    cells[7] = dataclasses.replace(cells[7], error="exit code 1: no space")
    cells.append(report.Cell("better", 9, tmp_path / "never"))
    again = dataclasses.replace(cells[0], run=cells[1].run)
    half = synthetic.write_run(tmp_path / "half", "vague", 8, {}, status="preempted")
    nan = synthetic.write_run(
        tmp_path / "nan", "vague", 7, {"test": {"accuracy": math.nan, "loss": 1.0}}
    )
    found = told([*cells, again, half, nan])
    why = {(r.cell.variant, r.cell.seed): r.missing for r in found.failed}
    assert why == {
        ("better", 2): "exit code 1: no space",
        ("better", 9): "it was not started",
        ("base", 0): "repeats seed 0, which base-0 counts for",
        ("vague", 8): "it is preempted after 100 steps",
    }
    assert found.headline.row("better").mean.n == 4
    vague = found.headline.row("vague")
    assert vague.lost == {7: "gave no value", 8: "did not finish"} and vague.mean.n == 5
    assert found.verdicts["vague"].endswith(
        "; 1 of 7 seeds did not finish, 1 of 7 seeds gave no value"
    )
    assert found.verdicts["better"].startswith("better by 1.")
    assert found.verdicts["better"].endswith(
        " in the 4 pairs; 1 of 6 seeds failed, 1 of 6 seeds did not finish"
    )
    assert "seeds" not in found.verdicts["worse"], "a repeated run of base is no lost seed"
    text = report.write_report(found, tmp_path / "out")[0].read_text()
    for reason in why.values():
        assert reason in text
    assert "counted, but not in test/accuracy: not a finite number" in text
    assert "27 of 29" not in text and "25 of 29 runs counted" in text


def test_without_a_base_or_a_finished_run_there_is_a_report_that_says_so(cells, tmp_path):
    others = [cell for cell in cells if cell.variant != "base"]
    found = told(others)
    assert "There is no run of base" in found.notes[0]
    assert set(found.verdicts.values()) == {"no run of base counts"}
    broken = [dataclasses.replace(cell, error="boom") for cell in cells]
    nothing = told(broken)
    assert nothing.headline is None and set(nothing.verdicts) == {*ACCURACY} - {"base"}
    for each, words in ((found, "no run of base counts"), (nothing, "no run counts")):
        text, page = report.write_report(each, tmp_path / words)
        assert words in text.read_text() and page.stat().st_size > 1000


def test_runs_that_are_not_alike_are_told(cells, tmp_path):
    assert told(cells).notes == ()
    deep = synthetic.EXPERIMENT["model"] | {"widths": [32]}
    odd = synthetic.write_run(tmp_path / "odd", "base", 9, synthetic.both(accuracy=0.9), model=deep)
    passport = json.loads((odd.run / PASSPORT).read_text())
    passport["data"]["test"], passport["code"]["file"] = "e" * 16, "f" * 16
    (odd.run / PASSPORT).write_text(json.dumps(passport))
    other = synthetic.write_run(
        tmp_path / "other", "worse", 9, synthetic.both(accuracy=0.9), primary="valid/loss"
    )
    notes = " ".join(told([*cells, odd, other]).notes)
    assert "The runs of base differ in more than their seed: model.widths.0." in notes
    assert "different primary metrics: valid/accuracy, valid/loss" in notes
    assert "The test data are not the same" in notes and "The code is not the same" in notes


def test_one_seed_gives_no_interval(cells):
    found = told([cell for cell in cells if cell.seed == 3])
    assert found.verdicts["better"] == "one seed tells no interval: better by 1.1 points there"
    assert found.verdicts["null"] == "the same number as base; one seed tells no more"
    assert math.isnan(found.headline.row("base").mean.half)


def test_runs_are_found_in_folders_and_their_absence_is_an_error(cells, tmp_path):
    inside = cells[0].run / "checkpoints" / "copy"
    inside.mkdir(parents=True)
    (inside / PASSPORT).write_text("{}")
    found = report.find_runs([tmp_path, cells[3].run])
    assert sorted(found) == sorted(cell.run for cell in cells)
    empty = tmp_path / "empty"
    empty.mkdir()
    for place in (empty, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=place.name):
            report.find_runs([place])


def test_a_damaged_result_is_a_failure_of_that_run_alone(cells):
    (cells[0].run / "result.json").write_text("{")
    found = told(cells)
    assert [run.cell for run in found.failed] == [cells[0]]
    assert "is damaged" in found.failed[0].missing and found.headline.row("base").mean.n == 4


def test_survivors_do_not_hide_the_seeds_that_failed(tmp_path):
    """The worst seeds of `hot` fail, and what is left looks better; base loses one too."""
    cells = [
        synthetic.write_run(
            tmp_path / f"{variant}{seed}",
            variant,
            seed,
            synthetic.both(accuracy=0.90 + 0.001 * seed + 0.03 * (variant == "hot")),
            status="failed" if (variant, seed) in {("hot", 3), ("hot", 4)} else "done",
        )
        for variant in ("base", "hot")
        for seed in range(5)
    ]
    assert told(cells).verdicts["hot"].endswith(" points in the 3 pairs; 2 of 5 seeds failed")
    (cells[0].run / "result.json").unlink()
    found = told(cells)
    end = "; 2 of 5 seeds failed; 1 of 5 seeds of base did not finish"
    assert found.verdicts["hot"].endswith(end)
    lines = [line for line in found.lines() if line["headline"]]
    assert [(o["seeds"], o["failed"], o["pairs"]) for o in lines] == [(4, 1, None), (3, 2, 2)]


def test_one_run_with_a_test_metric_does_not_take_the_headline(tmp_path):
    def cell(variant, seed, **splits):
        place = tmp_path / f"{variant}{seed}"
        return synthetic.write_run(place, variant, seed, splits)

    cells = [
        cell(
            v,
            s,
            valid={"accuracy": 0.9 + 0.01 * (v == "wide") + 0.001 * (s * s + (v == "wide" and s))},
        )
        for v in ("base", "wide")
        for s in range(3)
    ]
    cells.append(cell("wide", 3, valid={"accuracy": 0.91}, test={"accuracy": 0.8}))
    found = told(cells)
    assert found.headline.name == "valid/accuracy" and "better" in found.verdicts["wide"]
    (test,) = (m for m in found.metrics if m.name == "test/accuracy")
    assert test.row("wide").verdict == (
        "no value of test/accuracy of base; 3 of 4 seeds gave no value; "
        "3 of 3 seeds of base gave no value"
    )
    text = report.write_report(found, tmp_path / "out")[0].read_text()
    assert text.count("counted, but not in test/accuracy: no value") == 6


def test_a_limit_holds_the_whole_interval_and_counts_the_tests():
    base, other = [0.900, 0.905, 0.902, 0.908], [0.906, 0.904, 0.915, 0.912]
    found = compare(dict(enumerate(base)), dict(enumerate(other)))
    assert 0.05 < found.p < 0.2
    scale = scale_of("test/accuracy", base)
    end = 100 * (found.difference + found.half)
    limits = [
        float(verdict(found, 0.9, scale, "base", n).split("than ")[1].split()[0]) for n in (1, 8)
    ]
    assert end - 0.1 <= limits[0] < limits[1]
    assert limits[1] == pytest.approx(100 * found.shown_at(0.05 / 8), abs=0.1)


def test_a_damaged_number_is_a_failure_of_that_run_alone(cells):
    result = json.loads((cells[0].run / "result.json").read_text())
    result["metrics"]["test"]["accuracy"] = "high"
    (cells[0].run / "result.json").write_text(json.dumps(result))
    (cells[1].run / "result.json").write_bytes(b"\xff\xfe{")
    found = told(cells)
    assert [run.cell for run in found.failed] == cells[:2]
    assert all("damaged" in run.missing for run in found.failed)
    assert found.verdicts["worse"].endswith("; 2 of 5 seeds of base failed")


@pytest.mark.row("R-027")
def test_means_and_lines_are_those_of_the_records(cells):
    found = told(cells)
    lines = {(line["metric"], line["variant"]): line for line in found.lines()}
    assert len(lines) == 2 * len(ACCURACY)
    for (metric, variant), line in lines.items():
        split, name = metric.split("/")
        mine = [c.run for c in cells if c.variant == variant]
        values = [read_result(run).metrics[split][name] for run in mine]
        assert line["mean"] == pytest.approx(np.mean(values), rel=1e-12)
        assert line["seeds"] == 5 and line["failed"] == 0


@pytest.mark.parametrize(
    ("found", "corrected", "mode", "words"),
    [
        ((0.02, 0.01, 0.001), 0.003, "max", "better by 2.0 ± 1.0 points"),
        ((0.02, 0.01, 0.001), 0.003, "min", "worse by 2.0 ± 1.0 points"),
        ((0.02, 0.01, 0.001), 0.003, "", "higher by 2.0 ± 1.0 points"),
        ((-0.02, 0.01, 0.001), 0.003, "", "lower by 2.0 ± 1.0 points"),
        (
            (0.02, 0.019, 0.03),
            0.12,
            "max",
            "unclear: better by 2.0 ± 1.9 points taken alone, but p is 0.12 among 4 comparisons",
        ),
        (
            (-0.002, 0.01, 0.5),
            1.0,
            "max",
            "no difference larger than 2.0 points can be seen with 5 seeds "
            f"(found {MINUS}0.2 ± 1.0)",
        ),
    ],
)
def test_the_words_of_a_verdict(found, corrected, mode, words):
    difference, half, p = found
    gap = Difference(True, 5, difference, half, 0.01, 1.0, p, 0.015, False, 4)
    scale = dataclasses.replace(scale_of("test/accuracy", [0.5]), mode=mode)
    assert verdict(gap, corrected, scale, "base", 4) == words


def test_names_tell_the_way_and_the_unit():
    assert scale_of("test/top5_accuracy", [0.2, 0.9]) == scale_of("valid/accuracy", [math.nan])
    assert scale_of("test/accuracy", [0.2, 90.0]).share is False, "it is in percent already"
    assert scale_of("valid/critic.loss", [0.2]).mode == "min"
    assert scale_of("valid/loss", [0.2]).share is False
    error = scale_of("valid/error", [0.2])
    assert error.share is False and error.mode == "min", "it may be of a regression"
    assert scale_of("valid/entropy", [0.2]).mode == ""
    assert scale_of("valid/entropy", [0.2], "max").mode == "max"


def test_numbers_have_the_places_that_their_uncertainty_deserves():
    assert fixed(97.2889, 0.3612) == "97.29" and fixed(-2.0, 0.29) == f"{MINUS}2.00"
    assert fixed(1234.5, 120) == "1230" and fixed(-0.001, 0.5) == "0.00"
    assert fixed(0.123456, math.nan) == "0.1235" and fixed(math.nan, 1) == DASH
    assert fixed(2.5e-9, 1e-10) == "2.5e-09" and fixed(2.5e30, 1e29) == "2.5e+30"
    assert [probability(p) for p in (1e-9, 0.0123, 0.5, math.nan)] == [
        "< 0.001",
        "0.012",
        "0.50",
        DASH,
    ]
