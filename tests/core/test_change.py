from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import numpy as np
import pytest

from jaxdl.core import Experiment, InputError, Part, change
from jaxdl.core.change import ABSENT, diff, flatten, parse_edits

if TYPE_CHECKING:
    from nowhere import Nothing


@dataclass(frozen=True)
class AdamW:
    peak_lr: float = 3e-4
    clip: float | None = None
    betas: tuple[float, ...] = (0.9, 0.99)
    warmup: int | float = 0
    nesterov: bool = False
    decay: "Mapping[str, float]" = field(default_factory=dict)
    odd: "Nothing" = None  # an annotation only a type checker can read

    def __post_init__(self):
        if self.peak_lr < 0:
            raise ValueError(f"peak_lr={self.peak_lr} must not be negative.")


@dataclass(frozen=True)
class Data:
    name: str = "digits"
    split: str | None = None
    batch: int = 8
    size: tuple[int, int] = (8, 8)


@dataclass(frozen=True)
class Log:
    every: int = 50


class Block(nn.Module):
    width: int = 8
    heads: int = 2
    norm: Callable[..., nn.Module] = Part(nn.RMSNorm, epsilon=1e-6)

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.heads}.")


class Net(nn.Module):
    depth: int = 2
    block: Callable[..., nn.Module] = Block
    act: Callable = nn.relu
    kind: Literal["pre", "post"] = "pre"


def make(**kw):
    fixed = dict(
        model=Net(), task=None, data=Data(), optim=AdamW(), steps=10, hooks=(Log(), Log(5))
    )
    return Experiment(**fixed | kw)


def message(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "new", "read"),
    [
        ("steps", 20, lambda e: e.steps),
        ("model.depth", 6, lambda e: e.model.depth),
        ("hooks.1.every", 7, lambda e: e.hooks[1].every),
        ("mesh.model", 4, lambda e: e.mesh["model"]),
        ("optim.decay.bias", 0.5, lambda e: e.optim.decay["bias"]),
        ("optim.betas.0", 0.8, lambda e: e.optim.betas[0]),
        ("optim.clip", None, lambda e: e.optim.clip),
        ("rules", {"embed": "data"}, lambda e: e.rules),
        ("model.act", nn.gelu, lambda e: e.model.act),
        ("model.block", Part(Block, width=4), lambda e: e.model.block),
        ("optim.odd", object, lambda e: e.optim.odd),
        ("task", Log(), lambda e: e.task),
    ],
)
def test_a_path_is_replaced_and_the_original_stays(path, new, read):
    exp = make()
    assert read(change(exp, {path: new})) == new
    assert exp == make()


def test_no_edit_changes_nothing():
    assert change(make(), {}) == make()


def test_a_path_through_parts():
    exp = make(model=Net(block=Part(Block, width=4, norm=Part(nn.RMSNorm))))
    new = change(exp, {"model.block.width": 6, "model.block.norm.epsilon": 1e-3})
    assert new.model.block == Part(Block, width=6, norm=Part(nn.RMSNorm, epsilon=1e-3))


def test_a_path_through_a_default_that_the_part_leaves_alone():
    new = change(make(model=Net(block=Part(Block))), {"model.block.norm.epsilon": 1e-3})
    assert new.model.block == Part(Block, norm=Part(nn.RMSNorm, epsilon=1e-3))


def test_the_shorter_path_comes_first():
    new = change(make(), {"optim.peak_lr": 1.0, "optim": AdamW(clip=2.0)})
    assert new.optim == AdamW(peak_lr=1.0, clip=2.0)


def test_fields_that_must_agree_change_together():
    new = change(make(model=Block(width=8, heads=8)), {"model.heads": 3, "model.width": 6})
    assert (new.model.heads, new.model.width) == (3, 6)


@pytest.mark.row("C-004")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "optim.peek_lr",
            "Experiment.optim: AdamW has no field 'peek_lr'; did you mean 'peak_lr'? choose from: "
            "betas, clip, decay, nesterov, odd, peak_lr, warmup",
        ),
        ("stepz", "Experiment has no field 'stepz'; did you mean 'steps'? choose from: accumulate"),
        ("model.dept", "Experiment.model: Net has no field 'dept'; did you mean 'depth'? choose"),
        ("model.name", "Experiment.model: Net has no field 'name'; choose from: act, block, depth"),
        ("hooks.7.every", "Experiment.hooks: tuple has no field '7'; choose from: 0, 1"),
        ("steps.x", "Experiment.steps: 10 has no field 'x'"),
        ("mesh.a.b", "Experiment.mesh: dict has no field 'a'; there is none"),
        ("model.block.width", "has no field 'width'; wrap it in Part(Block, ...)"),
    ],
)
def test_an_unknown_name_is_refused_with_its_path(path, expected):
    text = message(change, make(), {path: 1})
    assert text.startswith(expected) or text.endswith(expected)


def test_an_unknown_name_behind_a_part():
    exp = make(model=Net(block=Part(Block)))
    text = message(change, exp, {"model.block.widht": 1})
    assert text.startswith(
        "Experiment.model.block: Block has no field 'widht'; did you mean 'width'?"
    )
    assert text.endswith("choose from: heads, norm, width")


@pytest.mark.row("C-004")
@pytest.mark.parametrize(
    ("path", "new", "expected"),
    [
        ("steps", "10", "Experiment.steps: expected int, got '10' (str)."),
        ("steps", True, "Experiment.steps: expected int, got True (bool)."),
        ("steps", 1.0, "Experiment.steps: expected int, got 1.0 (float)."),
        ("optim.peak_lr", True, "Experiment.optim.peak_lr: expected float, got True (bool)."),
        ("optim.peak_lr", np.float64(1), "peak_lr: expected float, got np.float64(1.0) (float64)."),
        ("optim.peak_lr", float("nan"), "Experiment.optim.peak_lr: NaN is not a setting; give"),
        ("optim.nesterov", 1, "Experiment.optim.nesterov: expected bool, got 1 (int)."),
        ("optim.clip", "x", "Experiment.optim.clip: expected float | None, got 'x' (str)."),
        ("optim.betas", (0.9, "x"), "Experiment.optim.betas: expected tuple[float, ...], got (0.9"),
        ("optim.betas.1", "x", "Experiment.optim.betas.1: expected float, got 'x' (str)."),
        ("data.size", (1, 2, 3), "Experiment.data.size: expected tuple[int, int], got (1, 2, 3)"),
        ("data.size", [1, 2], "Experiment.data.size: expected tuple[int, int], got [1, 2] (list)."),
        ("mesh", {"data": True}, "Experiment.mesh: expected Mapping[str, int], got {'data': True}"),
        ("mesh.data", "x", "Experiment.mesh.data: expected int, got 'x' (str)."),
        ("rules", 3, "Experiment.rules: expected str | Mapping, got 3 (int)."),
        (
            "model.kind",
            "side",
            "Experiment.model.kind: expected Literal['pre', 'post'], got 'side'",
        ),
        ("model.act", "relu", "Experiment.model.act: expected Callable, got 'relu' (str)."),
    ],
)
def test_a_wrong_type_is_refused_with_its_path(path, new, expected):
    assert expected in message(change, make(), {path: new})


def test_a_wrong_type_behind_a_part():
    exp = make(model=Net(block=Part(Block)))
    text = message(change, exp, {"model.block.width": "x"})
    assert text == "Experiment.model.block.width: expected int, got 'x' (str)."


@pytest.mark.parametrize(
    ("path", "new", "stored"),
    [
        ("optim.peak_lr", 1, 1.0),
        ("optim.clip", 1, 1.0),
        ("optim.betas", (1, 0.5), (1.0, 0.5)),
        ("optim.decay", {"a": 1}, {"a": 1.0}),
        ("optim.warmup", 1, 1),
        ("optim.warmup", 0.1, 0.1),
    ],
)
def test_an_int_becomes_the_float_a_field_asks_for(path, new, stored):
    got = getattr(change(make(), {path: new}).optim, path.split(".")[1])
    assert repr(got) == repr(stored)


def test_what_the_class_itself_refuses_gets_the_path():
    text = message(change, make(), {"optim.peak_lr": -1.0})
    assert text == "Experiment.optim: peak_lr=-1.0 must not be negative."
    assert message(change, make(), {"steps": 0}) == "Experiment: steps=0 must be at least 1."


@pytest.mark.parametrize(
    ("edit", "value"),
    [
        ("steps=20", 20),
        ("optim.peak_lr=1e-3", 1e-3),
        ("optim.clip=inf", float("inf")),
        ("optim.clip=None", None),
        ("optim.nesterov=TRUE", True),
        ("optim.nesterov=false", False),
        ("optim.betas=(0.5, 0.6)", (0.5, 0.6)),
        ("rules=dp", "dp"),
        ("rules=1", "1"),
        ("rules={'embed': 'data'}", {"embed": "data"}),
        ("data.name=1", "1"),
        ("data.name=none", "none"),
        ("data.name=a=b", "a=b"),
        ("data.name=", ""),
        ("data.split=none", None),
        ("data.split=7", "7"),
        ("data.split=a:b", "a:b"),
        ("mesh.model=4", 4),
        ("model.kind=post", "post"),
        ("model.act=flax.linen:gelu", nn.gelu),
        ("model.block=flax.linen:Dense", nn.Dense),
        ("task=two words", "two words"),
    ],
)
def test_an_edit_is_read_as_its_field_asks(edit, value):
    exp = make()
    edits = parse_edits([edit], exp)
    assert edits == {edit.partition("=")[0]: value}
    assert type(next(iter(edits.values()))) is type(value)
    change(exp, edits)


def test_an_edit_through_a_part():
    exp = make(model=Net(block=Part(Block, norm=Part(nn.RMSNorm))))
    edits = parse_edits(["model.block.norm=flax.linen:LayerNorm", "model.block.width=4"], exp)
    assert change(exp, edits).model.block == Part(Block, norm=nn.LayerNorm, width=4)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (["steps"], "'steps' is no edit; write path=value, like optim.peak_lr=1e-3."),
        (["=3"], "'=3' is no edit; write path=value"),
        (["steps=1", "seed=1", "steps=2"], "steps is set twice; keep one."),
        (
            ["model.act=flax.linen:rellu"],
            "model.act: flax.linen has no 'rellu'; did you mean 'relu",
        ),
        (
            ["model.act=flax.linnen:relu"],
            "model.act: there is no module 'flax.linnen'; did you mean",
        ),
    ],
)
def test_a_malformed_edit_is_refused(edits, expected):
    assert message(parse_edits, edits, make()).startswith(expected)


def test_a_wrong_path_is_left_to_change():
    edits = parse_edits(["optim.peek_lr=1"], make())
    assert "did you mean 'peak_lr'" in message(change, make(), edits)
    edits = parse_edits(["data.size.x=1"], make())
    assert message(change, make(), edits).startswith("Experiment.data.size: tuple has no field 'x'")


def test_flatten_names_every_leaf():
    value = {"net": Net(block=Part(Block, width=4)), "mesh": {}, "size": (1, 2)}
    assert flatten(value) == {
        "net.depth": 2,
        "net.block.width": 4,
        "net.act": nn.relu,
        "net.kind": "pre",
        "mesh": {},
        "size.0": 1,
        "size.1": 2,
    }


def test_diff_of_equals_is_empty():
    assert diff(make(), make()) == {}


def test_diff_shows_both_sides():
    a = make(mesh={"data": 2}, model=Net(block=Part(Block, width=4)))
    b = make(steps=20, hooks=(Log(),), model=Net(block=Part(Block, width=8)))
    found = diff(a, b)
    assert found == {
        "steps": (10, 20),
        "mesh.data": (2, ABSENT),
        "hooks.1": (Log(5), ABSENT),
        "model.block.width": (4, 8),
    }
    assert repr(found["mesh.data"]) == "(2, absent)"


def test_diff_sees_another_class_with_the_same_fields():
    @dataclass(frozen=True)
    class Other(Log):
        pass

    assert diff(Log(1), Other(1)) == {"": (Log(1), Other(1))}
    assert diff(make(model=Part(nn.Dense)), make(model=Part(nn.Conv))) == {
        "model": (Part(nn.Dense), Part(nn.Conv))
    }


def test_any_field_takes_anything():
    marker: Any = object()
    assert change(make(), {"task": marker}).task is marker
