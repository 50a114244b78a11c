"""Whole parts named on the command line: `optim.sam=jaxdl.optim:SAM`."""

from dataclasses import dataclass, field

import pytest

from jaxdl import optim
from jaxdl.core import Experiment, InputError, change
from jaxdl.core.change import parse_edits
from jaxdl.models.mlp import MLP


@dataclass(frozen=True)
class Log:
    every: int = 50


@dataclass(frozen=True)
class Needy(Log):
    place: str = field(kw_only=True)


@dataclass(frozen=True)
class Holder:
    log: Log | None = None


def make(**kw):
    return Experiment(**dict(model=None, task=None, data=None, optim=None, steps=10) | kw)


def message(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (["sam=jaxdl.optim:SAM"], optim.AdamW(sam=optim.SAM())),
        (["schedule=jaxdl.optim.schedule:Linear"], optim.AdamW(schedule=optim.Linear())),
        (
            ["sam.rho=1", "sam=jaxdl.optim:SAM", "schedule=jaxdl.optim:Constant"],
            optim.AdamW(sam=optim.SAM(rho=1.0), schedule=optim.Constant()),
        ),
        (
            ["schedule.warmup=3", "schedule=jaxdl.optim:Linear", "schedule.end=0.5"],
            optim.AdamW(schedule=optim.Linear(warmup=3, end=0.5)),
        ),
    ],
)
def test_a_field_of_dataclasses_takes_one_by_name(edits, expected):
    exp = make(optim=optim.AdamW())
    edits = parse_edits([f"optim.{edit}" for edit in edits], exp)
    assert change(exp, edits).optim == expected
    assert parse_edits(["optim.sam=none"], exp) == {"optim.sam": None}


def test_a_subclass_fits_too():
    exp = make(optim=optim.Adversaries(optim.AdamW(), optim.AdamW()))
    edits = parse_edits(["optim.critic=jaxdl.optim:SGD", "optim.critic.momentum=0"], exp)
    assert change(exp, edits).optim.critic == optim.SGD(momentum=0.0)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            "schedule=jaxdl.optim:SAM",
            "optim.schedule: 'jaxdl.optim:SAM' does not fit; expected jaxdl.optim:Constant or "
            "jaxdl.optim:Cosine or jaxdl.optim:Linear or jaxdl.optim:Steps or "
            "jaxdl.optim:InverseSqrt, or a subclass.",
        ),
        ("sam=jaxdl.optim:Linear", "optim.sam: 'jaxdl.optim:Linear' does not fit; expected jaxdl."),
        ("sam=SAM", "optim.sam: 'SAM' does not fit; expected jaxdl.optim:SAM, or a subclass."),
        ("sam=0.05", "optim.sam: '0.05' does not fit; expected jaxdl.optim:SAM, or a subclass."),
        ("sam=jaxdl.optim:SAN", "optim.sam: jaxdl.optim has no 'SAN'; did you mean 'SAM'?"),
    ],
)
def test_what_is_not_such_a_dataclass_is_refused_with_those_that_are(edit, expected):
    text = message(parse_edits, [f"optim.{edit}"], make(optim=optim.AdamW()))
    assert text.startswith(expected)


def test_a_dataclass_without_defaults_cannot_be_named():
    exp = make(optim=Holder())
    text = message(parse_edits, [f"optim.log={__name__}:Needy"], exp)
    assert text.startswith(f"optim.log: {__name__}:Needy has not only defaults (")


def test_a_field_of_what_is_none_says_what_to_set_first():
    exp = make(optim=optim.AdamW())
    text = message(change, exp, parse_edits(["optim.sam.rho=0.05"], exp))
    assert text == (
        "Experiment.optim.sam: None has no field 'rho'; set optim.sam=jaxdl.optim:SAM first"
    )


def test_a_part_of_any_kind_is_exchanged_by_name():
    exp = make(model=MLP(widths=(4,), classes=2), optim=optim.AdamW())
    edits = parse_edits(["optim.peak_lr=3e-4", "optim=jaxdl.optim:Lion"], exp)
    assert change(exp, edits).optim == optim.Lion(peak_lr=3e-4)
    with pytest.raises(InputError, match="did you mean 'Lion'"):
        parse_edits(["optim=jaxdl.optim:Lyon"], exp)
    with pytest.raises(InputError, match="has not only defaults"):
        parse_edits(["model=jaxdl.models.gpt:GPT"], exp)
