"""How good a choice of blocks is: on TPUs and GPUs that are absent, and on the device at hand."""

from __future__ import annotations

import importlib
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxdl.core import timing
from jaxdl.core.errors import InputError
from jaxdl.core.topology import devices
from jaxdl.kernels import absent_gpu
from jaxdl.kernels.absent_tpu import AbsentTpu, Ended, NoCycles

MEBI, KIBI = 2**20, 2**10
FAST = {
    # Vector memory of a core: jax 0.10.2, `jax.experimental.pallas.tpu.get_tpu_info`. A kernel that
    # asks for no more gets 16 MiB of it, on a v6e 32 (libtpu 0.0.52 says so as it overflows).
    "TPU v4": 16 * MEBI,
    "TPU v5 lite": 128 * MEBI,
    "TPU v5": 64 * MEBI,
    "TPU v6 lite": 128 * MEBI,
    "TPU7x": 64 * MEBI,
    # Shared memory of a block: CUDA programming guide, table of compute capabilities.
    "*H[12]0*": 227 * KIBI,
    "*B200*": 227 * KIBI,
    "NVIDIA A[18]00*": 163 * KIBI,
    "NVIDIA A30": 163 * KIBI,
    "NVIDIA*": 99 * KIBI,
}
"""Bytes of fast memory that a program may take, by patterns of what JAX calls the device."""
SUBLANES, LANES = 8, 128
ROUNDS = 7
Blocks = Mapping[str, int]


@dataclass(frozen=True)
class Case:
    """One kernel to find blocks for."""

    platform: str
    kernel: str
    size: int
    text: str
    """What is measured, in words."""
    candidates: tuple[Blocks, ...]
    program: str
    """`module:function`: of (*given, blocks) it makes a function, and its arguments' shapes."""
    given: tuple[Any, ...]
    """What JSON can tell."""
    peer: bool = False
    """Whether `program` takes no blocks, {}, for what XLA makes of the reference: then this is
    measured too.
    """
    only: str = ""
    """An expression: what the names of the operations that count begin with."""
    memory: Callable[[Blocks], int] = lambda blocks: 0
    """Bytes of fast memory that a program takes at least."""
    shape: Callable[[Blocks], tuple[int, int]] = lambda blocks: (SUBLANES, LANES)
    """Of a block."""
    traffic: Callable[[Blocks], float] = lambda blocks: 0.0
    """Bytes that the kernel reads of slow memory: orders what compiles for a GPU."""

    @property
    def choices(self) -> tuple[Blocks, ...]:
        """The candidates, and no blocks."""
        return (*self.candidates, *[{}] * self.peer)

    def made(self, blocks: Blocks) -> tuple[Callable[..., Any], Sequence[Any]]:
        """The program."""
        module, _, name = self.program.partition(":")
        return getattr(importlib.import_module(module), name)(*self.given, dict(blocks))


@dataclass(frozen=True)
class Verdict:
    """The less, the better; None where it cannot be taken, and why."""

    value: float | None
    unit: str
    why: str = ""
    lasting: bool = True
    """Whether it would be the same another time."""

    def __str__(self) -> str:
        """In words."""
        if self.value is None:
            return self.why
        return f"{self.value:,.{3 if self.unit == 'ms' else 0}f} {self.unit}"


Measured = Callable[[Case, Sequence[Blocks]], Iterator[Verdict]]
"""Verdicts of several candidates, in their order."""


@dataclass(frozen=True)
class Target:
    """What is tuned for, and by what."""

    name: str
    platform: str
    device: str
    by: str
    unit: str
    together: bool
    """Whether candidates are comparable only if they are measured together."""
    measuring: Callable[[], AbstractContextManager[Measured]]


def target(name: str) -> Target:
    """`v5e:2x2` and other TPUs, `h200:1`, or `here` for the default device.

    Raises:
        InputError: the name is unknown, or what compiles for it is not installed.
    """
    if name == "here":
        device = jax.devices()[0]
        return Target(*(name, device.platform, device.device_kind, "time", "ms", True), _timing)
    device = devices(name)[0]
    if device.platform == "tpu":
        how = "static cycles", "cycles", False
        return Target(name, "tpu", device.device_kind, *how, lambda: _cycles(name))
    if device.platform in ("gpu", "cuda"):
        how = "compiled", "bytes of memory", False
        return Target(name, "gpu", device.device_kind, *how, lambda: _compiling(name))
    raise InputError(f"{name!r} is at hand; --target here tunes for it.")


def pruned(case: Case, blocks: Blocks, target: Target) -> str:
    """Why these blocks need not be compiled; empty if they must be."""
    if not blocks:
        return ""
    if case.platform == "tpu":
        rows, columns = case.shape(blocks)
        if rows % SUBLANES or columns % LANES:
            return f"blocks of {rows} x {columns} are no multiple of {SUBLANES} x {LANES}"
    need, room = case.memory(blocks), budget(target)
    if need > room:
        return f"overflow: {need:,} bytes of fast memory, of which {target.device} has {room:,}"
    return ""


def budget(target: Target) -> float:
    """Bytes of fast memory that a program may take.

    Raises:
        InputError: nobody has written down how much the device has.
    """
    if target.platform == "cpu":
        return float("inf")
    for pattern, room in FAST.items():
        if fnmatchcase(target.device, pattern):
            return room
    raise InputError(f"kernels/measure.py does not know the fast memory of {target.device!r}.")


@contextmanager
def _cycles(name: str) -> Iterator[Measured]:
    with AbsentTpu() as compiler:

        def measured(case: Case, candidates: Sequence[Blocks]) -> Iterator[Verdict]:
            for blocks in candidates:
                given = (*case.given, dict(blocks))
                try:
                    found = compiler.cycles(name, case.program, *given, only=case.only)
                    yield Verdict(found, "cycles")
                except NoCycles as error:
                    yield Verdict(None, "cycles", str(error), not isinstance(error, Ended))

        yield measured


@contextmanager
def _compiling(name: str) -> Iterator[Measured]:
    def measured(case: Case, candidates: Sequence[Blocks]) -> Iterator[Verdict]:
        for blocks in candidates:
            function, arguments = case.made(blocks)
            unit = "bytes of memory"
            try:
                found = absent_gpu.kernels(function, *arguments, target=name)
            except absent_gpu.TooLarge as error:
                yield Verdict(None, unit, f"overflow: {error}")
                continue
            spilled = sum(one.spilled for one in found if re.match(case.only, one.name))
            if spilled:
                yield Verdict(None, unit, f"spills: {spilled} bytes of a thread's registers")
            else:
                yield Verdict(case.traffic(blocks), unit)

    yield measured


@contextmanager
def _timing() -> Iterator[Measured]:
    yield timed


def timed(case: Case, candidates: Sequence[Blocks]) -> Iterator[Verdict]:
    """Medians of wall time in turns, on the default device; why not where it does not compile."""
    runs, why = {}, {}
    for n, blocks in enumerate(candidates):
        function, shapes = case.made(blocks)
        arguments = jax.tree.map(_filled, shapes)
        try:
            run = jax.jit(function).lower(*arguments).compile()
            jax.block_until_ready(run(*arguments))
            runs[n] = run, arguments
        except jax.errors.JaxRuntimeError as error:
            why[n] = " ".join(str(error).split())[:300]
    taken: dict[int, list[float]] = {n: [] for n in runs}
    for turn in range(ROUNDS):
        for n in list(runs)[:: 1 if turn % 2 else -1]:
            run, arguments = runs[n]
            taken[n] += timing.measure(partial(run, *arguments), repeats=1, warmup=0)
    for n in range(len(candidates)):
        done = 1e3 * statistics.median(taken[n]) if n in taken else None
        yield Verdict(done, "ms", why.get(n, ""))


def _filled(like: Any) -> jax.Array:
    """Normal numbers of a shape and dtype, always the same."""
    values = np.random.default_rng(0).standard_normal(like.shape, np.float32)
    return jax.numpy.asarray(values, like.dtype)
