import functools
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdl.core import Experiment, InputError, Part, change, dump, load
from jaxdl.core.codec import digest

HERE = __name__


@dataclass(frozen=True)
class AdamW:
    peak_lr: float = 3e-4
    betas: tuple[float, ...] = (0.9, 0.99)
    decay: Mapping[str, float] = field(default_factory=dict)
    loss: Any = None

    def __post_init__(self):
        if self.peak_lr < 0:
            raise ValueError(f"peak_lr={self.peak_lr} must not be negative.")


@dataclass(frozen=True)
class Files:
    folder: str
    name: str = "digits"  # a field of one's own called `name` is no linen name
    parent: str = "all"


@dataclass(frozen=True)
class Log:
    every: int = 50


class Gate(nn.Module):
    """A block that only this test file knows."""

    width: int = 8
    norm: Callable[..., nn.Module] = nn.RMSNorm

    @nn.compact
    def __call__(self, x):
        x = self.norm(name="norm")(x)
        return x * nn.sigmoid(nn.Dense(self.width, name="gate")(x))


class Net(nn.Module):
    block: Callable[..., nn.Module] = Gate
    depth: int = 2
    head: nn.Module | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        for i in range(self.depth):
            x = self.act(self.block(name=f"block_{i}")(x))
        return x


class Pair(NamedTuple):
    a: int
    b: int


class Holder:
    def method(self):
        return None


def shift(x, *, by=1.0):
    return x + by


def make(**kw):
    fixed = dict(model=Net(), task=None, data=Files("x"), optim=AdamW(), steps=10, hooks=(Log(),))
    return Experiment(**fixed | kw)


def through_json(value):
    return load(json.loads(json.dumps(dump(value), allow_nan=False)))


def message(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.row("C-003")
def test_a_block_of_a_test_file_is_usable_and_survives_json():
    block = Part(Gate, norm=Part(nn.LayerNorm, epsilon=1e-3))
    exp = change(make(), {"model.block": block, "model.block.width": 4})
    again = through_json(exp)
    assert again == exp and again.model.block.target is Gate
    x = jnp.ones((2, 4))
    params = again.model.init(jax.random.key(0), x)
    assert params["params"]["block_1"]["gate"]["kernel"].shape == (4, 4)
    assert (again.model.apply(params, x) == exp.model.apply(params, x)).all()


@pytest.mark.row("C-003")
def test_an_unknown_qualified_name_lists_the_nearest():
    text = message(load, {"$": f"{HERE}:Gait"})
    assert text.startswith(f"Gait: {HERE} has no 'Gait'; did you mean 'Gate'?")
    assert "did you mean 'flax.linen'?" in message(load, {"$ref": "flax.linnen:Dense"})
    assert "there is no module 'flaks'; did you mean 'flax'?" in message(load, {"$ref": "flaks:x"})
    assert "'Dense' is not of the form module:qualname" in message(load, {"$ref": "Dense"})


@pytest.mark.row("C-004")
@pytest.mark.parametrize(
    "value",
    [
        make(),
        make(mesh={"data": -1}, rules={"embed": None, "mlp": ("model", "data")}, ema=0.5),
        make(model=Net(table={"a": {"b": (1, 2.5, None, True)}}, act=jnp.tanh)),
        make(model=Net(block=Part(Gate, norm=Part(nn.RMSNorm)), head=Gate(width=3))),
        make(model=nn.Sequential((nn.Dense(3), nn.relu, nn.Dense(2, dtype=jnp.bfloat16)))),
        make(model=nn.Dense(3, kernel_init=nn.initializers.zeros)),
        make(model=Net(head=nn.Dense(3, name="out"))),
        make(optim=AdamW(loss=Part(shift, by=math.inf))),
        make(optim=AdamW(peak_lr=1e-300, decay={"bias": -0.0}, loss=optax.adamw)),
        (),
        ((), {}, -math.inf, "$", "", 10**30),
        Part(Files, folder="x", name="y"),
        Part(nn.Dense, name="named"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_round_trip_is_equal(value):
    assert through_json(value) == value
    assert dump(load(dump(value))) == dump(value)


def test_a_frozen_dict_comes_back_equal():
    exp = make(model=Net(table=FrozenDict({"a": {"b": 1}})))
    assert through_json(exp) == exp
    bound = Net(table={"a": {"b": 1}}).bind({})
    assert isinstance(bound.table, FrozenDict)
    assert through_json(bound).table == bound.table


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
)
keys = st.text(max_size=4).filter(lambda key: not key.startswith("$"))
functions = st.sampled_from([shift, Gate, nn.relu, math.sqrt])


def grow(inner):
    return st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.builds(lambda x: AdamW(loss=x), inner),
        st.builds(lambda x: Part(AdamW, loss=x), inner),
        st.builds(lambda x: Net(table={"x": x}), inner),
    )


@settings(max_examples=60, deadline=None, database=None)
@given(st.recursive(leaves | functions, grow, max_leaves=8))
def test_any_configuration_survives(value):
    assert through_json(value) == value


def test_the_form():
    assert dump(make(mesh={"data": 2}).mesh) == {"data": 2}
    assert dump(Part(shift, by=math.inf)) == {
        "$": "jaxdl.core.part:Part",
        "target": {"$ref": f"{HERE}:shift"},
        "kw": {"by": {"$float": "inf"}},
    }
    assert dump(Gate(width=3)) == {
        "$": f"{HERE}:Gate",
        "width": 3,
        "norm": {"$ref": "flax.linen.normalization:RMSNorm"},
    }
    assert dump(Files("x")) == {
        "$": f"{HERE}:Files",
        "folder": "x",
        "name": "digits",
        "parent": "all",
    }


def test_private_modules_are_named_by_their_public_door():
    assert dump(nn.relu) == {"$ref": "jax.nn:relu"}
    assert dump(optax.adamw) == {"$ref": "optax:adamw"}


def test_a_default_without_a_name_is_left_to_the_class():
    data = dump(nn.Dense(3))
    assert data["features"] == 3 and "kernel_init" not in data
    assert load(data) == nn.Dense(3)


def local_class():
    @dataclass(frozen=True)
    class Local:
        x: int = 0

    return Local


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda x: x, "a lambda has no name to find it by; move it to module level"),
        (
            nn.initializers.lecun_normal(),
            "made inside a function; move it to module level, or wrap",
        ),
        (
            functools.partial(shift),
            "a functools.partial does not compare; wrap it in Part(cls, ...)",
        ),
        (Holder().method, "Holder.method is a bound method; move it to module level"),
        (local_class(), "Local is made inside a function; move it to module level"),
        (local_class()(), "Local is made inside a function; move it to module level"),
        ([1, 2], "[1, 2] is a list, which can change; use a tuple."),
        (np.float32(1), "np.float32(1.0) is a numpy scalar; use float(...)."),
        (np.int64(1), "np.int64(1) is a numpy scalar; use int(...)."),
        (np.float64(1), "np.float64(1.0) is a numpy scalar; use float(...)."),
        (np.bool_(True), "np.True_ is a numpy scalar; use bool(...)."),
        (math.nan, "NaN is not a setting"),
        (np.ones(2), "a ndarray does not serialise; use plain values"),
        ({1}, "a set does not serialise"),
        (Pair(1, 2), "a Pair does not serialise"),
        (object(), "a object does not serialise"),
    ],
)
def test_what_does_not_serialise_is_refused_with_its_path(value, expected):
    for path, exp in (
        ("Experiment.optim.loss", make(optim=AdamW(loss=value))),
        ("Experiment.model.table.x.1", make(model=Net(table={"x": (0, value)}))),
        ("Experiment.model.block.width", make(model=Net(block=Part(Gate, width=value)))),
    ):
        text = message(dump, exp)
        assert text.startswith(f"{path}: ") and expected in text


def test_main_is_refused(monkeypatch):
    main = types.ModuleType("__main__")
    main.shift = types.FunctionType(shift.__code__, {"__name__": "__main__"}, "shift")
    main.shift.__module__ = "__main__"
    monkeypatch.setitem(__import__("sys").modules, "__main__", main)
    text = message(dump, make(optim=AdamW(loss=main.shift)))
    assert text.startswith("Experiment.optim.loss: shift lives in __main__; move it to a module")


def test_keys_must_be_plain_strings():
    assert "key 1 must be a str" in message(dump, {1: 2})
    assert "key '$x' must be a str that does not start with '$'" in message(dump, {"$x": 2})
    assert "key '$x' must be a str that does not start with '$'" in message(load, {"$x": 2})


def test_missing_fields_take_the_default():
    assert load({"$": f"{HERE}:AdamW", "betas": [0.5]}) == AdamW(betas=(0.5,))


@pytest.mark.row("C-004")
def test_unknown_and_missing_fields_are_refused_with_their_path():
    data = dump(make())
    data["optim"]["peek_lr"] = 1.0
    assert message(load, data) == (
        "Experiment.optim: AdamW has no field 'peek_lr'; did you mean 'peak_lr'? "
        "choose from: betas, decay, loss, peak_lr"
    )
    text = message(load, {"$": f"{HERE}:Files"})
    assert text.startswith("Files: Files cannot be built: ") and "'folder'" in text
    data = dump(make()) | {"optim": {"$": f"{HERE}:AdamW", "peak_lr": -1.0}}
    assert message(load, data) == "Experiment.optim: peak_lr=-1.0 must not be negative."


def test_only_dataclasses_are_built():
    assert message(load, {"$": "os:system"}).endswith("is not a dataclass.")
    assert message(load, {"$": f"{HERE}:Holder"}).endswith("is not a dataclass.")


def test_the_digest_names_what_decides_the_numbers():
    exp = make()
    assert len(digest(exp)) == 8 and int(digest(exp), 16) >= 0
    assert digest(exp) == digest(through_json(exp)) == digest(make(steps=99, hooks=()))
    assert digest(exp) != digest(make(seed=1))
    assert digest(make(mesh={"a": 1, "b": 2})) == digest(make(mesh={"b": 2, "a": 1}))
