"""Flat settings say what was run."""

import math
from dataclasses import dataclass, field

from jaxdl.core import dump
from jaxdl.core.part import Part
from jaxdl.core.settings import settings


@dataclass(frozen=True)
class Inner:
    rate: float = math.inf
    widths: tuple = (3, 4)
    empty: tuple = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    part: Part = field(default_factory=lambda: Part(Inner, rate=0.5))
    kind: type = Inner
    nothing: int | None = None
    on: bool = True
    mesh: dict = field(default_factory=lambda: {"data": 2})
    hooks: tuple = (Inner(),)


def test_settings_are_flat_plain_and_without_hooks():
    assert settings(dump(Outer())) == {
        "inner": "Inner",
        "inner.rate": math.inf,
        "inner.widths.0": 3,
        "inner.widths.1": 4,
        "inner.empty": "none",
        "part": "Inner",
        "part.rate": 0.5,
        "kind": "Inner",
        "nothing": "none",
        "on": True,
        "mesh.data": 2,
    }
