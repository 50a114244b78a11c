"""What a function's kernels become on an NVIDIA GPU that is absent, as its compilers tell.

XLA and Triton make PTX and set shared memory aside; `ptxas` makes of it the machine's code, for
which registers may not suffice: what spills lies in memory.

Needs: the extra `aot-gpu`, no GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import jax

from jaxdl.core.errors import InputError
from jaxdl.core.packages import versions_of
from jaxdl.core.topology import devices, shapes_on, unkept

ARCHITECTURE = re.compile(r"^\.target (\w+)", re.M)
TOO_LARGE = re.compile(r"Shared memory size limit exceeded: requested (\d+)")
LAUNCH = re.compile(r"kCustomKernel .*?(\w+) grid: .*?threads: \[(\d+).*?shared_memory: (\d+)")
RELEASE = re.compile(r"\bV(\d[\d.]*)")
ENTRY = re.compile(r"^\s*\.visible \.entry (\w+)\(", re.M)
PROPERTIES = re.compile(
    r"properties for (\w+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\s+ptxas info\s+: Used (\d+) registers"
)


@dataclass(frozen=True)
class Kernel:
    """What is known of a kernel. Bytes: `shared` of a block, the others of a thread."""

    name: str
    threads: int
    """Of a block."""
    shared: int
    registers: int
    stack: int
    spilled: int
    """Stored and loaded again, as the code stands: a loop does it in each turn."""
    wgmma: int
    """Products of the Hopper kind, of four warps together, in the code."""
    mma_sync: int
    """Those of the kind before, of one warp."""


class TooLarge(Exception):
    """A block wants more shared memory than there is: `wanted` bytes."""

    def __init__(self, wanted: int) -> None:
        super().__init__(f"a block wants {wanted} bytes of shared memory.")
        self.wanted = wanted


@dataclass(frozen=True)
class Compiled:
    """A function's kernels, and bytes of the device's memory beyond its arguments and results."""

    kernels: tuple[Kernel, ...]
    temp: int


def kernels(function: Callable[..., Any], *args: Any, target: str = "h200:1") -> tuple[Kernel, ...]:
    """Those of `compiled`."""
    return compiled(function, *args, target=target).kernels


def compiled(function: Callable[..., Any], *args: Any, target: str = "h200:1") -> Compiled:
    """`function(*args)`, a function of arrays or their shapes, for one device of `target`.

    Raises:
        InputError: the extra `aot-gpu` is not installed.
        TooLarge: shared memory does not suffice.
    """
    lowered = jax.jit(function).lower(*shapes_on(devices(target)[0], args))
    with tempfile.TemporaryDirectory() as folder, unkept():
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            found = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if wanted := TOO_LARGE.search(str(error)):
                raise TooLarge(int(wanted[1])) from error
            raise
        temp = found.memory_analysis().temp_size_in_bytes
        return Compiled(tuple(_read(Path(folder))), temp)


def versions() -> dict[str, str]:
    """Of what compiles."""
    told = subprocess.run([ptxas(), "--version"], check=True, capture_output=True, text=True).stdout
    return versions_of(("jax", "jax-cuda13-pjrt")) | {"ptxas": RELEASE.findall(told)[0]}


def ptxas() -> str:
    """The path of the assembler: of the extra, or of a toolkit that is installed.

    Raises:
        InputError: there is none.
    """
    try:
        found = [x for x in files("nvidia-cuda-nvcc") or () if x.stem == "ptxas"]
    except PackageNotFoundError:
        found = []
    path = str(found[0].locate()) if found else shutil.which("ptxas")
    if not path:
        raise InputError("reading registers needs ptxas; pip install 'jaxdl[aot-gpu]'.")
    return path


def _read(folder: Path) -> Iterator[Kernel]:
    launches = {
        name: (int(threads), int(shared))
        for path in folder.glob("*thunk_sequence.txt")
        for name, threads, shared in LAUNCH.findall(path.read_text())
    }
    for path in folder.glob("*.ptx"):
        text = path.read_text()
        _, *entries = ENTRY.split(text)
        if not entries or not (target := ARCHITECTURE.search(text)):
            continue
        code = dict(zip(entries[::2], entries[1::2], strict=True))
        command = [ptxas(), "-v", f"-arch={target[1]}", str(path), "-o", str(folder / "code")]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        for name, stack, stores, loads, registers in PROPERTIES.findall(told):
            yield Kernel(
                *(name, *launches[name], int(registers), int(stack), int(stores) + int(loads)),
                wgmma=code[name].count("wgmma.mma_async"),
                mma_sync=code[name].count("mma.sync"),
            )
