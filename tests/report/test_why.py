"""What differs between two runs, in what order it is named, and where numbers part."""

import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from jaxdl.core import change
from jaxdl.core.loading import load_experiment
from jaxdl.core.records import (
    Code,
    Passport,
    Record,
    Result,
    line_of,
    read_passport,
    write_json,
)
from jaxdl.optim import Lion
from jaxdl.report import compare, explain
from jaxdl.report.bisect import Outcome, _trial, bisect
from jaxdl.report.why import between, ranked
from jaxdl.train.passport import issue
from jaxdl.train.snapshot import take

EXPERIMENT = """
import os

from jaxdl.core import Experiment
from jaxdl.data import Digits
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log

SCALE = os.environ.get("MY_SCALE", "1")


class Rolled(Digits):
    def plan(self, split):
        return lambda seed, e: (e + 1) % 1197


def base():
    return Experiment(
        model=MLP(widths=(16,), classes=10),
        task=Classification(),
        data=Rolled(batch=64),
        optim=AdamW(),
        steps=4,
        hooks=(Log(every=1), Evaluate(every=2)),
    )
"""
GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@y")
SAME = (4.0, 3.0, 2.0, 1.0)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working directory with an experiment under git."""
    place = tmp_path / "lab"
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "exp.py").write_text(EXPERIMENT)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*GIT, *command], check=True)
    return place


def recorded(name, edits=(), losses=SAME, every=1, **changes):
    """The directory of a run that has these losses, as if it had been trained."""
    place = Path("runs") / name
    place.mkdir(parents=True)
    exp, _ = load_experiment("exp.py")
    exp = change(exp, dict(edits))
    code = take("exp.py")
    write_json(place / "passport.json", replace(issue(exp, "exp.py", code=code), **changes))
    code.keep(place, 0)
    told = [Record(every * (i + 1), "train", 0.0, {"loss": x}) for i, x in enumerate(losses)]
    (place / "metrics.jsonl").write_text("".join(map(line_of, told)))
    return place


def named(found):
    return [f"{d.kind} {d.name}" for d in found.likely]


def test_identical_runs_are_the_same_in_everything(lab):
    found = explain(recorded("a"), recorded("b"))
    assert (found.likely, found.parting, found.comparison.compared) == ((), None, 4)


def test_a_cadence_and_a_command_are_not_named_as_causes(lab):
    found = explain(recorded("a"), recorded("b", {"hooks.0.every": 2}, command="other"))
    assert found.likely == () and {d.name for d in found.idle} == {"hooks.0.every", "command"}


CHEAP = {
    "seed": ({"seed": 1}, "seed seed", "0", "1"),
    "dtype": ({"precision": "bf16"}, "config precision", "f32", "bf16"),
    "a field": ({"model.widths": (8,)}, "config model.widths.0", "16", "8"),
    "more parts": ({"model.widths": (16, 8)}, "config model.widths.1", "absent", "8"),
    "another class": ({"optim": Lion()}, "config optim", None, None),
}


@pytest.mark.parametrize("case", CHEAP)
def test_what_is_set_is_named_by_its_path(case, lab):
    edits, name, a, b = CHEAP[case]
    found = explain(recorded("a"), recorded("b", edits, (5.0, 3.0, 2.0, 1.0)))
    assert named(found) == [name]
    assert a is None or (found.likely[0].a, found.likely[0].b) == (a, b)


@pytest.mark.parametrize(
    ("losses", "first"),
    [
        ((9.0, 3.0, 2.0, 1.0), "seed seed"),
        ((4.0, 9.0, 2.0, 1.0), "config optim.peak_lr"),
    ],
)
def test_what_fits_where_the_numbers_part_comes_first(losses, first, lab):
    b = recorded("b", {"optim.peak_lr": 0.5, "seed": 1, "ema": 0.5}, losses)
    found = explain(recorded("a"), b)
    assert len(found.likely) == 3 and named(found)[0] == first


def test_a_line_of_code_is_named_and_shown(lab):
    a = recorded("a")
    (lab / "exp.py").write_text(EXPERIMENT.replace("(e + 1)", "(e + 2)"))
    (found,) = explain(a, recorded("b")).likely
    assert found.name == "exp.py:16"
    assert "(e + 1)" in found.a and "(e + 2)" in found.b


def test_code_is_put_back_from_another_clone_of_its_repository(lab, monkeypatch):
    a = recorded("a").resolve()
    (lab / "exp.py").write_text(EXPERIMENT.replace("(e + 1)", "(e + 2)"))
    b = recorded("b").resolve()
    subprocess.run([*GIT, "clone", "-q", lab, "../clone"], check=True)
    monkeypatch.chdir(lab.parent / "clone")
    shutil.move(lab, lab.parent / "moved")
    (found,) = explain(*(lab.parent / "moved" / r.relative_to(lab) for r in (a, b))).likely
    assert found.name == "exp.py:16" and "(e + 2)" in found.b


def test_a_default_that_code_changed_comes_after_that_code():
    passports = [read_passport_of(activation) for activation in ("jax.nn:relu", "jax.numpy:tanh")]
    codes = [Code({"jaxdl": {"jaxdl/models/mlp.py": x}, "here": {}}, {}, {}) for x in "ab"]
    found = between(*zip(passports, codes, strict=True))
    likely, _ = ranked(found, None)
    assert [d.kind for d in likely] == ["code", "config"]
    set_by_hand = replace(passports[1], source="exp.py model.activation=jax.numpy:tanh")
    found = between((passports[0], codes[0]), (set_by_hand, codes[1]))
    assert [d.kind for d in ranked(found, None)[0]] == ["config", "code"]


def test_code_that_nothing_uses_comes_last_and_is_not_the_line_shown(lab):
    # In parts: this file ran in this process too, and names in its strings count as used.
    function, number = "nobody" + "_calls", "NOBODY" + "_READS"
    beside = f"\n\ndef {function}():\n    return 1\n"
    (lab / "exp.py").write_text(
        EXPERIMENT.replace("SCALE = os", f"{number} = 1\nSCALE = os") + beside
    )
    a = recorded("a")
    changed = EXPERIMENT.replace("SCALE = os", f"{number} = 2\nSCALE = os")
    (lab / "exp.py").write_text(changed + beside.replace("1", "2"))
    b = recorded("b", {"task.smoothing": 0.1, "ema": 0.5}, (4.0, 9.0))
    assert named(explain(a, b)) == [
        "config task.smoothing",
        "config ema",
        "code exp.py:11 (unused)",
    ]
    (lab / "exp.py").write_text(changed.replace("(e + 1)", "(e + 2)") + beside)
    (found,) = explain(a, recorded("c")).likely
    assert found.name == "exp.py:17" and "(e + 2)" in found.b


def test_code_that_neither_run_imports_is_no_cause():
    passports = [read_passport_of("jax.nn:relu")] * 2
    names = ("jaxdl/models/vit.py", "jaxdl/models/mlp.py", "jaxdl/models/gpt.py")
    ran = [names[1:2], names[1:]]
    codes = [
        Code({"jaxdl": dict.fromkeys(names, x), "here": {}}, {}, {}, r)
        for x, r in zip("ab", ran, strict=True)
    ]
    likely, idle = ranked(between(*zip(passports, codes, strict=True)), None)
    assert {d.name for d in likely} == {*names[1:]} and [d.name for d in idle] == [names[0]]
    unknown = [(p, replace(c, ran=None)) for p, c in zip(passports, codes, strict=True)]
    assert len(ranked(between(*unknown), None)[0]) == 3


def test_variables_rank_by_what_they_can_move():
    one = read_passport_of("jax.nn:relu")
    flags = ("MALLOC_ARENA_MAX", "NCCL_DEBUG", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    flags = dict.fromkeys((*flags, "XLA_FLAGS", "MY_SCALE"), "1")
    two = replace(one, flags=flags, data={"train": "0"}, versions={"optax": "1"})
    found = between((replace(one, versions={"optax": "2"}), None), (two, None))
    likely, idle = ranked(found, None)
    names = [d.name for d in likely]
    assert names == ["MY_SCALE", "train", "XLA_FLAGS", "optax", "OMP_NUM_THREADS"]
    assert {d.name for d in idle} == {"MALLOC_ARENA_MAX", "NCCL_DEBUG", "CUDA_VISIBLE_DEVICES"}


def read_passport_of(activation):
    model = {"$": "jaxdl.models.mlp:MLP", "activation": {"$ref": activation}}
    plain = {"digest": "", "source": "exp.py", "command": "", "code": {}, "versions": {}}
    empty = {"data": {}, "devices": {}, "flags": {}, "seed": 0}
    return Passport(experiment={"$": "jaxdl.core:Experiment", "model": model}, **plain, **empty)


def test_comments_and_layout_are_no_cause(lab):
    a = recorded("a")
    (lab / "exp.py").write_text(EXPERIMENT.replace("SCALE", "# Why.\nSCALE", 1))
    found = explain(a, recorded("b"))
    assert found.likely == () and found.idle[0].name == "exp.py"


def test_data_are_named_by_their_split(lab):
    a = recorded("a")
    data = read_passport(a).data
    found = explain(a, recorded("b", data=data | {"train": "0" * 64}, losses=(4.0, 9.0)))
    assert named(found) == ["data train"]


@pytest.mark.parametrize("name", ["XLA_FLAGS", "JAX_DEFAULT_PRNG_IMPL", "MY_SCALE"])
def test_the_environment_is_named(name, lab, monkeypatch):
    a = recorded("a")
    monkeypatch.setenv(name, "other")
    assert named(explain(a, recorded("b"))) == [f"environment {name}"]


def test_a_setting_of_jax_counts_whoever_set_it(lab):
    a = recorded("a")
    with jax.numpy_dtype_promotion("strict"):
        b = recorded("b")
    assert named(explain(a, b)) == ["environment jax_numpy_dtype_promotion"]


def test_another_version_is_named_and_one_without_numbers_comes_last(lab, monkeypatch, tmp_path):
    a = recorded("a")
    for name in ("optax-9.9", "rich-99.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert named(explain(a, recorded("b"))) == ["versions optax", "versions rich"]


def test_a_run_that_went_on_under_other_code_says_so(lab):
    a = recorded("a")
    b = recorded("b", sittings=({"step": 2}, {"step": 3, "code": {"file": "0"}}))
    (found,) = explain(a, b).likely
    assert (found.kind, found.name) == ("sitting", "from step 3") and "code" in found.b


def test_runs_from_before_files_were_kept_are_told_by_their_revision(lab):
    a, b = recorded("a"), recorded("b")
    for run, revision in ((a, "1"), (b, "2")):
        (run / "code.json").unlink()
        passport = read_passport(run)
        write_json(run / "passport.json", replace(passport, code={"here": {"revision": revision}}))
    assert named(explain(a, b)) == ["code here"]


def records(*values, split="train", every=1):
    return [Record(every * (i + 1), split, 0.0, {"loss": v}) for i, v in enumerate(values)]


def test_where_numbers_part():
    one = records(3.0, 2.0, math.nan)
    assert compare(one, one).parting is None and compare(one, one).compared == 3
    start = compare(one, records(4.0, 2.0)).parting
    assert (start.step, start.when, start.values) == (1, "start", {"loss": (3.0, 4.0)})
    later = compare(one, records(3.0, 2.0, 1.0)).parting
    assert (later.step, later.when) == (3, "later")
    coarse = compare(records(3.0, every=5), records(4.0, every=5)).parting
    assert (coarse.step, coarse.when) == (5, "unknown")
    both = [*records(3.0, 2.0), *records(1.0, split="valid")]
    other = [*records(3.0, 2.0), *records(9.0, split="valid")]
    assert compare(both, other).parting.when == "evaluation"
    rate = [Record(1, "train", 0.0, {"loss": 1.0, "lr": 0.1})]
    double = [Record(1, "train", 0.0, {"loss": 1.0, "lr": 0.2})]
    assert compare(rate, double).parting.when == "later"


def test_records_of_other_intervals_are_not_compared():
    found = compare(records(3.0, 2.0, 1.0, 0.5), records(2.5, 0.75, every=2))
    assert (found.parting, found.compared) == (None, 0)


def test_runs_may_part_only_when_they_are_evaluated_at_the_end():
    ends = [Result("done", 2, 1.0, "valid/x", {"test": {"x": x}}) for x in (0.5, 0.6)]
    found = compare(records(1.0, 2.0), records(1.0, 2.0), tuple(ends)).parting
    assert (found.split, found.when, found.values) == ("test", "evaluation", {"x": (0.5, 0.6)})


def outcome(trial):
    """A world in which seed moves the loss, and the width only together with the rate."""
    exp, loss = trial.experiment, 4.0
    loss += exp["seed"]
    loss += (exp["model"]["widths"][0] == 8) * (1 + 2 * (exp["optim"]["peak_lr"] == 0.5))
    loss += 10 * ("MY_SCALE" in trial.flags)
    return Outcome(records(loss, 3.0))


def found_by(a, b, rerun=lambda trial, until: outcome(trial)):
    heard = []
    verdict = bisect(explain(a, b), rerun, heard.append)
    assert len(heard) == len(verdict.tried)
    return [d.name for d in verdict.cause], [t.effect for t in verdict.tried], verdict


def test_bisect_names_the_one_that_gives_the_others_numbers(lab):
    b = recorded("b", {"seed": 1, "model.classes": 11, "task.smoothing": 0.1}, (5.0, 9.0))
    cause, effects, _ = found_by(recorded("a"), b)
    assert cause == ["seed"] and effects[-1] == "cause" and set(effects[:-1]) <= {"none"}


def test_bisect_names_what_is_the_cause_together(lab):
    b = recorded("b", {"seed": 1, "model.widths": (8,), "optim.peak_lr": 0.5}, (8.0, 9.0))
    cause, effects, verdict = found_by(recorded("a"), b)
    assert effects == ["part", "part", "none", "part"]  # the third alone, the fourth is both
    assert cause == [] and "does not explain" in verdict.told  # the rate moved nothing alone
    b = recorded("c", {"seed": 1, "model.widths": (8,)}, (6.0, 9.0))
    cause, _, verdict = found_by(recorded("d"), b)
    assert set(cause) == {"seed", "model.widths.0"} and "together" in verdict.told


def test_bisect_takes_variables_of_the_environment(lab, monkeypatch):
    a = recorded("a")
    monkeypatch.setenv("MY_SCALE", "2")
    assert found_by(a, recorded("b", losses=(14.0, 9.0)))[0] == ["MY_SCALE"]


def test_bisect_is_left_with_what_it_cannot_try(lab):
    a = recorded("a")
    data = read_passport(a).data | {"train": "0" * 64}
    b = recorded("b", {"optim.peak_lr": 0.1}, (7.0, 9.0), data=data)
    cause, effects, verdict = found_by(a, b)
    assert cause == ["train"] and effects == ["none"] and "by elimination" in verdict.told


def test_bisect_says_so_where_the_first_run_does_not_repeat_itself(lab):
    b = recorded("b", {"seed": 1}, (5.0, 9.0))
    cause, _, verdict = found_by(recorded("a"), b, lambda *_: Outcome(records(7.0)))
    assert cause == [] and "does not repeat itself" in verdict.told
    _, _, verdict = found_by(b, recorded("c"), lambda *_: Outcome(failed="no such module"))
    assert "no such module" in verdict.told


def test_bisect_tells_none_from_nothing(lab):
    def outcome(trial):
        exp = trial.experiment
        return Outcome(records(4.0 + (exp.get("ema", 0) is None) + (exp["hooks"] == []), 3.0))

    a = recorded("a")
    exp = read_passport(a).experiment
    b = recorded("b", losses=(5.0, 9.0), experiment=exp | {"ema": None})
    assert found_by(a, b, lambda trial, until: outcome(trial))[0] == ["ema"]
    c = recorded("c", losses=(6.0, 9.0), experiment=exp | {"ema": None, "hooks": []})
    passport = read_passport(c)
    both = [d for d in explain(a, c).likely + explain(a, c).idle if d.kind == "config"]
    assert len(both) == 3
    assert _trial(read_passport(a), both).experiment == passport.experiment


def test_bisect_is_left_with_a_variable_of_which_only_a_digest_is_kept(lab, monkeypatch):
    a = recorded("a")
    monkeypatch.setenv("MY_SCALE", "2")
    b = recorded("b", losses=(14.0, 9.0))

    def rerun(trial, until):
        known = "MY_SCALE" not in trial.flags
        return Outcome(records(4.0, 3.0)) if known else Outcome(failed="only a digest")

    cause, effects, verdict = found_by(a, b, rerun)
    assert cause == ["MY_SCALE"] and effects == ["failed"] and "by elimination" in verdict.told
