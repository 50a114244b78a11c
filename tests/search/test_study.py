"""Samplers, pruners and the queue of trials that workers share."""

import math
import statistics
from collections import Counter

import optuna
import pytest

from jaxdl.core import InputError
from jaxdl.search.objective import Objective
from jaxdl.search.space import Choice, Integer, LogUniform, Uniform, edits_of
from jaxdl.search.study import Study, make_pruner, make_sampler, open_study

LOSS = (Objective("valid/loss", "min"),)
BRANIN = {"x": Uniform(-5, 10), "y": Uniform(0, 15)}
LEAST = 0.397887


def branin(x, y):
    """A function of two numbers with three equal minima."""
    bowl = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    return bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def least(sampler, seed, trials=40):
    """The least of Branin that a sampler finds."""
    study = optuna.create_study(sampler=make_sampler(sampler, BRANIN, seed, False))
    view = Study(study, BRANIN, "me", trials)
    while trial := view.claim():
        view.complete(trial, [branin(**edits_of(BRANIN, trial.params))])
    return view.best()[0].values[0]


def opened(tmp_path, **changed):
    options = {"objectives": LOSS, "facts": {"seed": 0}, "pruner": make_pruner("none", 1, 9)}
    options |= {"sampler": make_sampler("random", BRANIN, 0, False)} | changed
    url = options.pop("url", f"sqlite:///{tmp_path}/study.db")
    return open_study(url, "test", **options)


@pytest.mark.row("R-006")
def test_tpe_finds_the_minimum_of_branin_where_random_does_not():
    found = {name: [least(name, seed) for seed in range(10)] for name in ("tpe", "random")}
    tpe, random = (statistics.median(found[name]) for name in ("tpe", "random"))
    assert LEAST - 1e-4 < tpe < LEAST + 0.5
    assert tpe < random


def test_cmaes_does_better_than_random():
    found = {name: [least(name, seed) for seed in range(5)] for name in ("cmaes", "random")}
    assert statistics.median(found["cmaes"]) < statistics.median(found["random"])


@pytest.mark.row("R-007")
def test_brackets_are_those_of_the_hyperband_paper():
    largest, eta = 81, 3
    most = round(math.log(largest, eta))
    paper = [math.ceil((most + 1) / (s + 1) * eta**s) for s in range(most, -1, -1)]
    assert paper == [81, 34, 15, 8, 5]
    pruner = make_pruner("hyperband", 1, largest)
    study = optuna.create_study(pruner=pruner, direction="minimize", study_name="brackets")
    trial = study.ask()
    trial.report(1.0, 1)
    trial.should_prune()
    assert pruner._trial_allocation_budgets == paper
    # A bracket is drawn by the trial's number, in proportion to these sizes.
    frozen = optuna.trial.create_trial(value=0.0)
    drawn = Counter()
    for number in range(14300):
        frozen.number = number
        drawn[pruner._get_bracket_id(study, frozen)] += 1
    for bracket, size in enumerate(paper):
        assert drawn[bracket] / 100 == pytest.approx(size, rel=0.1)


def test_a_study_holds_exactly_its_total_whoever_asks(tmp_path):
    views = [Study(opened(tmp_path), BRANIN, name, 5) for name in ("one", "two")]
    trials = [views[i % 2].claim() for i in range(7)]
    assert [t.number for t in trials[:5]] == [0, 1, 2, 3, 4] and trials[5:] == [None, None]
    larger = Study(opened(tmp_path), BRANIN, "three", 6)
    assert not larger.finished() and larger.claim().number == 5


def test_one_trial_too_many_waits_for_a_larger_total(tmp_path, monkeypatch):
    study = opened(tmp_path)
    view = Study(study, BRANIN, "slow", 1)
    real = study.get_trials
    monkeypatch.setattr(study, "get_trials", lambda **kw: [])  # what it saw before another asked
    Study(opened(tmp_path), BRANIN, "quick", 1).claim()
    assert view.claim() is None
    monkeypatch.setattr(study, "get_trials", real)
    assert [t.state.name for t in study.get_trials()] == ["RUNNING", "WAITING"]
    assert Study(opened(tmp_path), BRANIN, "third", 2).claim().number == 1


def test_a_trial_of_a_silent_worker_goes_to_another_and_counts_once(tmp_path):
    lost, heir = (Study(opened(tmp_path), BRANIN, name, 1) for name in ("lost", "heir"))
    trial = lost.claim()
    lost.report(trial, [(3, 0.7)])
    nobody = lambda name: False  # noqa: E731
    assert heir.claim() is None
    assert heir.reclaim(nobody, grace=0.05) == []  # seen for the first time
    assert lost.keep(trial)  # it moves
    assert heir.reclaim(nobody, grace=0.0) == []
    assert heir.reclaim(nobody, grace=-1.0) == [0]
    again = heir.claim()
    assert again.number == 0 and again.params == trial.params
    heir.report(again, [(3, 0.9), (4, 0.6)])
    assert heir._study.trials[0].intermediate_values == {3: 0.7, 4: 0.6}
    assert not lost.keep(trial)
    lost.complete(trial, [0.1])  # too late
    heir.complete(again, [0.2])
    assert [(row.state, row.values) for row in heir.rows()] == [("done", (0.2,))]


def test_a_trial_of_a_worker_known_to_be_dead_goes_at_once(tmp_path):
    lost, heir = (Study(opened(tmp_path), BRANIN, name, 2) for name in ("lost", "heir"))
    lost.claim()
    mine = heir.claim()
    assert heir.reclaim({"lost"}.__contains__, grace=60) == [0]
    assert heir.owns(mine) and heir.claim().number == 0


def test_best_of_several_objectives_is_the_pareto_front(tmp_path):
    both = (*LOSS, Objective("valid/accuracy", "max"))
    view = Study(opened(tmp_path, objectives=both), BRANIN, "me", 4)
    for values in ([3.0, 0.9], [1.0, 0.5], [3.0, 0.8], [2.0, 0.7]):
        view.complete(view.claim(), values)
    assert [row.values for row in view.best()] == [(1.0, 0.5), (2.0, 0.7), (3.0, 0.9)]


def test_importance_finds_the_parameter_that_matters(tmp_path):
    space = {"much": Uniform(0, 1), "none": LogUniform(1e-3, 1), "little": Choice((0, 1))}
    study = optuna.create_study(sampler=make_sampler("random", space, 0, False))
    view = Study(study, space, "me", 30)
    assert view.importance() == {}
    while trial := view.claim():
        view.complete(trial, [10 * trial.params["much"] + trial.params["little"]])
    shares = view.importance()
    assert max(shares, key=shares.__getitem__) == "much" and shares["much"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_a_study_made_for_something_else_is_refused(tmp_path):
    opened(tmp_path)
    with pytest.raises(InputError, match=r"seed 0 there, 1 here.*another --study"):
        opened(tmp_path, facts={"seed": 1})


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:////nowhere/at/all.db", "does not answer.*unable to open"),
        ("postgresql+psycopg://me:secret@127.0.0.1:9/db", r"me:\*\*\*@127.0.0.1:9.*refused"),
        ("no-such://place", "does not answer"),
        ("nonsense", "does not answer"),
    ],
)
def test_a_storage_that_does_not_answer_is_named_without_its_password(url, told, tmp_path):
    with pytest.raises(InputError, match=told) as caught:
        opened(tmp_path, url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("space", "several"), [({"x": Integer(1, 4)}, False), (BRANIN, True)])
def test_cmaes_says_what_it_cannot_search(space, several):
    with pytest.raises(InputError, match="at least two numbers"):
        make_sampler("cmaes", space, 0, several)
