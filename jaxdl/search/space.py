"""Search spaces: what a sweep may choose, as Python beside the experiment.

SPACE = {"optim.peak_lr": LogUniform(1e-4, 1e-2), "model.width": Choice((16, 32))}
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from jaxdl.core.change import change
from jaxdl.core.codec import dump
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.experiment import Experiment
from jaxdl.core.names import short_name_of

Label = str | int | float | bool | None
"""How a value is stored and shown."""


@dataclass(frozen=True)
class Uniform:
    """A number between `low` and `high`, both included."""

    low: float
    high: float

    def __post_init__(self):
        """Refuses an empty or endless range; whole bounds become floats."""
        _check_range(self)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def edges(self) -> tuple[Any, ...]:
        """Values that must be legal, so that all are."""
        return (self.low, self.high)

    def value(self, label: Any) -> Any:
        """What goes into the experiment for a stored value."""
        return float(label)


@dataclass(frozen=True)
class LogUniform(Uniform):
    """A number between `low` and `high` whose logarithm is uniform."""

    def __post_init__(self):
        """Refuses what has no logarithm."""
        super().__post_init__()
        if self.low <= 0:
            raise InputError(f"{self!r}: low must be above 0; use Uniform for a range from 0.")


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included, in steps; or `log`-uniform."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self):
        """Refuses an empty range, a step that misses `high`, and a logarithm of what has none."""
        if any(type(number) is not int for number in (self.low, self.high, self.step)):
            raise InputError(f"{self!r}: bounds and step must be whole numbers; use Uniform.")
        _check_range(self)
        if self.step < 1 or (self.high - self.low) % self.step:
            whole = (self.high - self.low) // max(1, self.step) * max(1, self.step)
            raise InputError(
                f"{self!r}: the step must be at least 1 and meet high; try high={self.low + whole}."
            )
        if self.log and (self.low < 1 or self.step > 1):
            raise InputError(f"{self!r}: a logarithmic range starts at 1 or more, with step 1.")

    def edges(self) -> tuple[Any, ...]:
        """Values that must be legal, so that all are."""
        return (self.low, self.high)

    def value(self, label: Any) -> Any:
        """What goes into the experiment for a stored value."""
        return int(label)


@dataclass(frozen=True)
class Choice:
    """One of `values`: anything an experiment's field may hold, parts included."""

    values: tuple[Any, ...]

    def __post_init__(self):
        """Refuses no choice at all, and two that cannot be told apart."""
        if type(self.values) is not tuple or not self.values:
            raise InputError(f"Choice({self.values!r}): give a tuple of at least one value.")
        if len(set(map(repr, self.values))) < len(self.values):
            raise InputError(f"{self!r}: a value comes twice; keep one.")

    def __repr__(self) -> str:
        """The same in every process, which a function's own is not."""
        comma = "," * (len(self.values) == 1)
        return f"Choice(({', '.join(map(_written, self.values))}{comma}))"

    @property
    def labels(self) -> dict[Label, Any]:
        """The values by how they are stored and shown: plain ones as themselves, unless two are
        equal (1 and True), others as they are written."""
        plain = {
            value if type(value) in (str, int, float, bool, type(None)) else _written(value): value
            for value in self.values
        }
        return plain if len(plain) == len(self.values) else {_written(v): v for v in self.values}

    def edges(self) -> tuple[Any, ...]:
        """Values that must be legal, so that all are."""
        return self.values

    def value(self, label: Any) -> Any:
        """What goes into the experiment for a stored value."""
        return self.labels[label]


Domain = Uniform | LogUniform | Integer | Choice
Space = Mapping[str, Domain]
Edits = Mapping[str, Any]
EXAMPLE = '{"optim.peak_lr": LogUniform(1e-4, 1e-2)}'


def find_space(module: ModuleType, name: str, exp: Experiment, path: str) -> Space:
    """The space called `name` in an experiment file, checked against the experiment.

    Raises:
        InputError: there is none, or a path or value of it is none of the experiment's.
    """
    space = getattr(module, name, None)
    if space is None:
        spaces = [k for k, v in vars(module).items() if _is_space(v)]
        tail = suggest(name, spaces) if spaces else f"write {name} = {EXAMPLE}"
        raise InputError(f"{path} has no space {name!r}; {tail}")
    if not _is_space(space):
        raise InputError(
            f"{path}: {name} must map paths to Uniform, LogUniform, Integer or Choice, like "
            f"{EXAMPLE}."
        )
    check(space, exp)
    return space


def check(space: Space, exp: Experiment) -> None:
    """Raises InputError, with the path, where a bound or choice cannot stand in `exp`."""
    for path, domain in space.items():
        for value in domain.edges():
            try:
                dump(change(exp, {path: value}))
            except InputError as error:
                whole = "expected int" in str(error) and isinstance(domain, Uniform)
                hint = " Integer(low, high) gives whole numbers." if whole else ""
                raise InputError(f"space {path!r}: {error}{hint}") from None


def edits_of(space: Space, labels: Mapping[str, Any]) -> dict[str, Any]:
    """The edits that the stored values of a trial stand for."""
    return {path: domain.value(labels[path]) for path, domain in space.items()}


def grid(space: Space) -> list[dict[str, Label]]:
    """Every combination, as stored: paths in alphabetical order, the last changes fastest.

    Raises:
        InputError: a range has no end of values.
    """
    paths = sorted(space)
    points = [list(_points(path, space[path])) for path in paths]
    return [dict(zip(paths, labels, strict=True)) for labels in itertools.product(*points)]


def _points(path: str, domain: Domain) -> Iterator[Label]:
    if isinstance(domain, Choice):
        yield from domain.labels
    elif isinstance(domain, Integer) and not domain.log:
        yield from range(domain.low, domain.high + 1, domain.step)
    else:
        raise InputError(
            f"a grid needs a list of values for {path!r}, not {domain!r}; write "
            f"Choice(({domain.low!r}, ..., {domain.high!r})), or choose --sampler tpe."
        )


def _written(value: Any) -> str:
    """A value as its repr, unless that may hold an address or is long; else its name or JSON."""
    if not set("<\n") & set(found := repr(value)):
        return found
    try:
        told = dump(value)
        named = isinstance(told, dict) and "$ref" in told
        return short_name_of(value) if named else json.dumps(told, sort_keys=True)
    except InputError:
        return found


def _is_space(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Domain) for k, v in value.items())
    )


def _check_range(domain: Uniform | Integer) -> None:
    if not (math.isfinite(domain.low) and math.isfinite(domain.high) and domain.low < domain.high):
        raise InputError(f"{domain!r}: low must be below high, and both finite.")
