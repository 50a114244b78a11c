"""Which implementation runs, and what is said when it is not the platform's own."""

import logging

import jax
import jax.numpy as jnp
import pytest

from jaxdl.core.errors import InputError
from jaxdl.kernels.dispatch import dispatch, forced, recording, strict

BY_NAME = {"cpu": lambda x: x + 1, "gpu": lambda x: x + 2, "reference": lambda x: x + 9}


def call(x=0, shape="x[]", refusals=(), impl=None):
    return dispatch("add", shape, BY_NAME, dict(refusals), impl, jnp.asarray(x))


def test_each_platform_runs_its_own_and_the_reference_where_it_has_none():
    assert call() == 1
    traced = jax.jit(lambda: call(jnp.float32(0))).trace()
    for platform, constant in (("cpu", "1."), ("cuda", "2."), ("tpu", "9."), ("rocm", "9.")):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f"dense<{constant}0000" in text, platform


def test_impl_forces_one_which_may_not_refuse():
    assert call(impl="gpu") == 2
    with forced("gpu"):
        assert call() == 2 and call(impl="cpu") == 1
    with pytest.raises(InputError, match="add: impl='cpu' cannot run x: odd; even ones fit"):
        call(shape="x", refusals={"cpu": "odd; even ones fit"}, impl="cpu")
    with pytest.raises(InputError, match="add has no impl='gpv'; did you mean 'gpu'"):
        call(impl="gpv")


def test_only_what_is_traced_inside_is_recorded_forced_or_not():
    call(shape="x[before]")
    with recording() as heard:
        call(shape="x[inside]")
        call(shape="x[inside]", impl="gpu")
        with recording() as inner:
            call(shape="x[inner]")
    assert [(c.shape, c.took) for c in heard] == [("x[inside]", "cpu"), ("x[inside]", "gpu")]
    assert [c.shape for c in inner] == ["x[inner]"]


@pytest.mark.row("C-033")
def test_a_refusal_falls_back_logged_once_and_recorded(caplog):
    with caplog.at_level(logging.WARNING, logger="jaxdl"), recording() as heard:
        for shape in ("x[3]", "x[3]", "x[5]"):
            assert jax.jit(lambda x, s=shape: call(x, s, {"cpu": "it is odd"}))(0) == 9
    assert [r.getMessage() for r in caplog.records] == [
        f"add on cpu: {shape} runs by reference, because it is odd" for shape in ("x[3]", "x[5]")
    ]
    assert [(c.platform, c.shape, c.took, c.refused) for c in heard] == [
        ("cpu", shape, "reference", "it is odd") for shape in ("x[3]", "x[5]")
    ]


def test_strict_mode_makes_it_an_error():
    with strict(), pytest.raises(InputError, match="add on cpu would run x7 by reference, because"):
        call(shape="x7", refusals={"cpu": "it is odd"})
    with strict():
        assert call(shape="x8", refusals={"gpu": "no such registers"}) == 1
