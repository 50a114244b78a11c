"""Search spaces: what may stand in one, and what is drawn from it."""

import math
from pathlib import Path

import jax
import numpy as np
import optuna
import pytest
from sklearn.model_selection import ParameterGrid

from jaxdl.core import InputError
from jaxdl.core.loading import load_experiment, load_file
from jaxdl.models.mlp import MLP
from jaxdl.search.space import (
    Choice,
    Integer,
    LogUniform,
    Uniform,
    check,
    edits_of,
    find_space,
    grid,
)
from jaxdl.search.study import Study, make_sampler


@pytest.fixture(scope="module")
def exp(worker, tmp_path_factory):
    file = tmp_path_factory.mktemp("space") / "exp.py"
    file.write_text(worker.EXPERIMENT)
    return load_experiment(str(file))[0]


ROOT = Path(__file__).resolve().parents[2]


def draw(space, sampler, count, seed=0):
    """What the trials of a study of its own get."""
    study = optuna.create_study(sampler=make_sampler(sampler, space, seed, False))
    view = Study(study, space, "me", count)
    return [edits_of(space, view.claim().params) for _ in range(count)]


@pytest.mark.row("R-004")
def test_a_grid_is_sklearns_in_the_same_order():
    space = {"lr": Choice((0.001, 0.01)), "batch": Choice((16, 32))}
    expected = list(ParameterGrid({path: domain.values for path, domain in space.items()}))
    assert len(expected) == 4 and grid(space) == expected
    assert draw(space, "grid", 4) == expected == draw(space, "grid", 4, seed=1)


def test_a_grid_of_whole_numbers_and_parts():
    space = {"b": Choice(((1,), (1, 2))), "a": Integer(2, 6, step=2)}
    assert [(p["a"], p["b"]) for p in draw(space, "grid", 6)] == [
        *((2, (1,)), (2, (1, 2)), (4, (1,)), (4, (1, 2)), (6, (1,)), (6, (1, 2))),
    ]
    with pytest.raises(InputError, match=r"'lr', not LogUniform.*Choice\(\(0.001, ..., 0.1"):
        grid({"lr": LogUniform(1e-3, 1e-1)})


@pytest.mark.row("R-005")
def test_random_draws_are_uniform_in_their_own_scale_and_seeded():
    space = {
        "lr": LogUniform(1e-4, 1e-2),
        "width": Choice((16, 32, 64)),
        "depth": Integer(1, 4),
        "decay": Uniform(0, 0.1),
    }
    drawn = draw(space, "random", 600)
    assert draw(space, "random", 30) == drawn[:30] != draw(space, "random", 30, seed=1)

    def counts(values, bins, ends):
        return np.histogram(values, bins, ends)[0]

    logs = counts([math.log10(p["lr"]) for p in drawn], 5, (-4, -2))
    widths = counts([p["width"] for p in drawn], [0, 20, 40, 70], None)
    depths = counts([p["depth"] for p in drawn], 4, (0.5, 4.5))
    decays = counts([p["decay"] for p in drawn], 5, (0, 0.1))
    for found in (logs, widths, depths, decays):
        assert found.sum() == 600
        expected = 600 / len(found)
        # Above 18.5 chi-squared of 4 degrees of freedom lies once in a thousand.
        assert ((found - expected) ** 2 / expected).sum() < 18.5
    assert type(drawn[0]["depth"]) is int and type(drawn[0]["lr"]) is float


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_a_trial_gets_does_not_depend_on_who_asks(sampler):
    space = {"x": Uniform(0, 1), "kind": Choice(("a", "b"))}
    alone = draw(space, sampler, 8)
    study = optuna.create_study(sampler=make_sampler(sampler, space, 0, False))
    other = optuna.load_study(
        study_name=study.study_name,
        storage=study._storage,
        sampler=make_sampler(sampler, space, 0, False),
    )
    views = [Study(study, space, "one", 8), Study(other, space, "two", 8)]
    assert [edits_of(space, views[i % 2].claim().params) for i in range(8)] == alone


BAD = [
    ({"model.widht": Choice((16, 32))}, "model.widht.*did you mean 'width'"),
    ({"model.width": Choice((16, 33))}, "model.width.*width=33 does not suit"),
    ({"model.width": Uniform(2, 32)}, r"expected int, got 2.0.*Integer\(low, high\)"),
    ({"model.x": Choice((0.5, "a"))}, "model.x.*expected float, got 'a'"),
    ({"modle.x": Uniform(0, 1)}, "modle.*did you mean 'model'"),
    ({"model.kind": Choice(("a", 1))}, "model.kind.*expected str, got 1"),
]


@pytest.mark.parametrize(("space", "told"), BAD)
def test_a_space_is_checked_against_the_experiment(space, told, exp):
    with pytest.raises(InputError, match=told):
        check(space, exp)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Uniform(1, 0), "low must be below high"),
        (lambda: Uniform(0, math.inf), "finite"),
        (lambda: LogUniform(0, 1), "above 0; use Uniform"),
        (lambda: Integer(1, 6, step=2), "try high=5"),
        (lambda: Integer(0, 8, log=True), "starts at 1 or more"),
        (lambda: Integer(0.5, 8), "whole numbers; use Uniform"),
        (lambda: Choice(()), "at least one value"),
        (lambda: Choice([1, 2]), "give a tuple"),
        (lambda: Choice((1, 2, 1)), "comes twice"),
    ],
)
def test_a_domain_that_is_none_is_refused(make, told):
    with pytest.raises(InputError, match=told):
        make()


def test_a_space_is_found_by_name(exp, worker, tmp_path):
    file = tmp_path / "exp.py"
    file.write_text(worker.EXPERIMENT)
    module = load_file(file)
    assert find_space(module, "KINDS", exp, "exp.py")["model.width"] == Choice((16, 32))
    with pytest.raises(InputError, match="no space 'KIND'; did you mean 'KINDS'"):
        find_space(module, "KIND", exp, "exp.py")
    with pytest.raises(InputError, match="ABLATIONS must map paths to Uniform"):
        find_space(module, "ABLATIONS", exp, "exp.py")


def test_choices_of_a_kind_stay_apart_and_come_back_as_they_were():
    values = (1, True, 1.0, "1", None, (1,))
    space = {"x": Choice(values)}
    assert {repr(p["x"]) for p in draw(space, "random", 80)} == set(map(repr, values))


@pytest.mark.parametrize("name", ["quickstart.py", "language/bytes.py"])
def test_spaces_of_experiments_are_legal(name):
    path = str(ROOT / "experiments" / name)
    exp, _ = load_experiment(path)
    assert len(find_space(load_file(path), "SPACE", exp, path)) == 4


def test_functions_are_stored_and_shown_by_name():
    acts = Choice((jax.nn.relu, jax.nn.silu))
    assert acts.labels == {"jax.nn:relu": jax.nn.relu, "jax.nn:silu": jax.nn.silu}
    assert repr(acts) == "Choice((jax.nn:relu, jax.nn:silu))"
    models = Choice(tuple(MLP((8,), 10, activation=act) for act in acts.values))
    for text in (*models.labels, repr(models)):
        assert "jax.nn:" in text and " at 0x" not in text and "\n" not in text
    assert [models.value(label) for label in models.labels] == list(models.values)
