"""Which devices take part in a collective, from the attributes of its instruction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

LISTED = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})?\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(
    r"replica_groups=mesh\[(?P<mesh>[^\]]*)\]"
    r"(?:, device_ids=\((?P<ids>[^{]*)\))? \{(?P<over>[^}]*)\}"
)
PART = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
"""An axis as a whole, or a part of it: `'a':(before)size`."""
PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


def groups(line: str, devices: int) -> np.ndarray:
    """The devices of each group: [groups, members] int.

    Raises: ValueError on a notation that is not known here.
    """
    if found := IOTA.search(line):
        shape, dims, order = map(_numbers, found.groups())
        return _iota(dims, order).reshape(shape)
    if found := MESH.search(line):
        return _along(found["mesh"], found["ids"], found["over"])
    if found := LISTED.search(line):
        if not found[1]:
            return np.arange(devices)[None]
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]+)\}", found[1])])
    raise ValueError(f"replica_groups that cannot be read: {line.strip()[:300]}")


def pairs(line: str) -> np.ndarray:
    """Sender and receiver of each message of a permutation that leaves its device: [n, 2] int."""
    found = PAIRS.search(line)
    if not found:
        raise ValueError(f"source_target_pairs that cannot be read: {line.strip()[:300]}")
    every = np.array(_numbers(found[1]), int).reshape(-1, 2)
    return every[every[:, 0] != every[:, 1]]


def axes(members: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a row of `members` [n, m] differ."""
    places = np.unravel_index(members, tuple(mesh.values()))
    return tuple(name for name, at in zip(mesh, places, strict=True) if (at != at[:, :1]).any())


def _along(mesh: str, ids: str | None, over: str) -> np.ndarray:
    """The groups along some axes of a mesh, or along parts of axes."""
    asked = [(name, int(b or 1), int(n or 0)) for name, b, n in PART.findall(over)]
    dims, inside = [], []
    for name, size in re.findall(r"'([^']+)'=(\d+)", mesh):
        spans = [(low, low * (n or int(size))) for other, low, n in asked if other == name]
        cuts = sorted({1, int(size)}.union(*spans))
        dims += [high // low for low, high in pairwise(cuts)]
        inside += [any(a <= low and high <= z for a, z in spans) for low, high in pairwise(cuts)]
    every = _devices(ids, dims)
    first = [i for i, within in enumerate(inside) if not within]
    last = [i for i, within in enumerate(inside) if within]
    members = int(np.prod([dims[i] for i in last]))
    return every.transpose(*first, *last).reshape(-1, members)


def _devices(ids: str | None, dims: list[int]) -> np.ndarray:
    """The devices of a mesh: in order, as `[4,2]T(1,0)` says, or one by one."""
    if ids is None:
        return _iota(dims, []).reshape(dims)
    if found := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids):
        return _iota(*map(_numbers, found.groups())).reshape(dims)
    return np.array(_numbers(ids)).reshape(dims)


def _iota(dims: list[int], order: list[int]) -> np.ndarray:
    every = np.arange(np.prod(dims, dtype=int)).reshape(dims)
    return every.transpose(order) if order else every


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text or "")]
