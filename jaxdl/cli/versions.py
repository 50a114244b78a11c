"""Which versions work together: sets that were tested, and combinations known not to work.

A set is a file of pip's constraints, `jaxdl/constraints/python-X.Y.txt`, whose first line says
whether it was tested.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version

import jaxdl

SETS = Path(jaxdl.__file__).parent / "constraints"


@dataclass(frozen=True)
class Conflict:
    """Versions that do not work together."""

    packages: Mapping[str, str]
    """Package -> version specifier; together they are the conflict."""
    why: str
    install: str
    """Arguments of `pip install` that mend it."""


CONFLICTS = (
    Conflict(
        {"jax2onnx": ">=0.14,<=0.17.1", "orbax-checkpoint": ">=0.11.37"},
        "this jax2onnx needs an older orbax-checkpoint than jaxdl does",
        "'jax2onnx>=0.13,<0.14'",
    ),
)


@dataclass(frozen=True)
class Set:
    """Versions that were seen together."""

    path: Path
    tested: bool
    versions: Mapping[str, str]

    def differences(self, installed: Mapping[str, str]) -> dict[str, str]:
        """Installed packages of the set that have another version there: package -> that one."""
        return {k: v for k, v in self.versions.items() if installed.get(k, v) != v}


def installed() -> dict[str, str]:
    """Version of every installed package, by canonical name, and of `python` (`3.11`)."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        # A broken installation leaves folders without a name; of several, Python imports the first.
        if name := distribution.metadata["Name"]:
            found.setdefault(canonical(name), distribution.version)
    return found | {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def known_sets() -> list[Set]:
    """The sets that come with jaxdl."""
    found = []
    for path in sorted(SETS.glob("python-*.txt")):
        first, *lines = path.read_text().splitlines()
        pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
        versions = {"python": path.stem.removeprefix("python-")}
        versions |= {canonical(pin.name): next(iter(pin.specifier)).version for pin in pins}
        found.append(Set(path, first.startswith("# tested"), versions))
    return found


def tested(have: Mapping[str, str]) -> tuple[bool, str]:
    """Whether what is installed was tested together, and in words."""
    nearest = min(known_sets(), key=lambda known: len(known.differences(have)))
    differing = nearest.differences(have)
    if not differing:
        return nearest.tested, f"{'' if nearest.tested else 'not '}tested, {nearest.path.name}"
    told = [f"{name} {version} (here {have[name]})" for name, version in differing.items()]
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    return False, (
        f"untested; the nearest set has {', '.join(told[:4])}{more}; "
        f"pip install -c {nearest.path} jaxdl"
    )


def conflicts(have: Mapping[str, str]) -> list[str]:
    """What is known not to work, each with what to install instead."""
    found = [
        f"{_named(conflict.packages, have)}: {conflict.why}; pip install {conflict.install}"
        for conflict in CONFLICTS
        if all(_within(have, name, spec) for name, spec in conflict.packages.items())
    ]
    jax, jaxlib = have.get("jax"), have.get("jaxlib")
    if jax and jaxlib and jax != jaxlib:
        found.append(
            f"jax {jax} and jaxlib {jaxlib} must be of one version; pip install jaxlib=={jax}"
        )
    for name in have:
        cuda = name.startswith("jax-cuda") and name.endswith(("-plugin", "-pjrt"))
        if cuda and jaxlib and Version(have[name]).release != Version(jaxlib).release:
            found.append(
                f"{name} {have[name]} is not of jaxlib {jaxlib}, so jax computes on the CPU; "
                f"pip install {name}=={jaxlib}"
            )
    for need in _needs():
        name = canonical(need.name)
        if name in have and have[name] not in need.specifier:
            found.append(f"{name} {have[name]} is outside jaxdl's bounds; pip install '{need}'")
    return found


def absent(have: Mapping[str, str]) -> list[str]:
    """Packages that jaxdl needs and that are not there."""
    return [str(need) for need in _needs() if canonical(need.name) not in have]


def _needs() -> list[Requirement]:
    needs = [Requirement(line) for line in metadata.requires("jaxdl") or ()]
    return [need for need in needs if need.marker is None]


def _within(have: Mapping[str, str], name: str, spec: str) -> bool:
    return name in have and have[name] in SpecifierSet(spec)


def _named(names: Mapping[str, str], have: Mapping[str, str]) -> str:
    return " with ".join(f"{name} {have[name]}" for name in names)
