"""Which of the other frameworks are here."""

from __future__ import annotations

from importlib.util import find_spec

NEEDS = {
    "keras": ("keras", "pip install 'jaxdl[parity]'"),
    "torch": ("torch", "pip install 'jaxdl[parity]'"),
    "lightning": ("lightning", "pip install lightning"),
}


def missing(peer: str) -> str:
    """What to do to have that peer, or nothing where it is here."""
    package, remedy = NEEDS.get(peer, ("", ""))
    return f"{package} is not installed; {remedy}" if package and not find_spec(package) else ""
