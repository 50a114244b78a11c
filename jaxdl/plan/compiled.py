"""The real step, compiled for devices that need not be there: its memory, work and messages."""

from __future__ import annotations

import math
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxdl.core.flops import flops
from jaxdl.core.topology import unkept
from jaxdl.plan.chips import CHIPS, Chip
from jaxdl.plan.hlo import Collective, collectives
from jaxdl.train import Program

LARGEST = 8
HOST = "pinned_host"
OPTIMISED = re.compile(r"module_\d+\..*after_optimizations\.txt$")
BUFFER = re.compile(r"^ +\S+ *\( *\d+%\); +(\S+?); +\d+; +\d+; (.*)$", re.M)


@dataclass(frozen=True)
class Plan:
    """What compiling told. Bytes are of one device."""

    kind: str
    """Of the devices, as JAX calls it."""
    devices: int
    mesh: dict[str, int]
    """Axes of more than one device."""
    fits: bool | None
    """Whether a device's memory suffices; None where its size is not known."""
    told: str
    """By the compiler, if it gave up."""
    memory: dict[str, int]
    """`parameters`, `optimizer`, `other_state` and `batch` as they are laid out in the device's
    memory, what lies in the `host`'s instead, and, of a step that fits, `arguments`, `temporaries`
    and `peak` of the device as compiled."""
    limit: float | None
    """Of `peak`."""
    largest: tuple[str, ...]
    """The largest buffers of a step that does not fit."""
    compile_s: float
    hlo_bytes: int
    """Length of the compiled HLO's text."""
    flops: int
    """Of a step on all devices, with what is computed twice."""
    collectives: tuple[Collective, ...]
    at_least_s: dict[str, float]
    """Seconds that a step takes at least for its `compute`, for the `memory` of reading and writing
    its state, and for its `network`; empty for devices that are not known."""

    @property
    def step_s(self) -> float | None:
        """A lower bound of the time of a step: that of its longest part."""
        return max(self.at_least_s.values(), default=None)


def compiled(program: Program) -> Plan:
    """Compiles the program's training step and reads what the compiler tells.

    Raises: jax.errors.JaxRuntimeError where the compiler fails for another reason than memory.
    """
    lowered = program.step.lower(program.abstract, program.batch)
    device = program.mesh.devices.flat[0]
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        start = time.perf_counter()
        executable, told = _compile(lowered, options if device.platform == "tpu" else {})
        seconds = time.perf_counter() - start
        text, largest = _text(executable, Path(folder)), _largest(Path(folder)) if told else ()
    memory = _laid_out(program) | (_as_compiled(executable) if executable else {})
    found = tuple(collectives(text, program.mesh.shape)) if text else ()
    work = flops(jax.make_jaxpr(program.step)(program.abstract, program.batch)).total()
    chip = CHIPS.get(device.device_kind)
    return Plan(
        kind=device.device_kind,
        devices=program.mesh.size,
        mesh={name: size for name, size in program.mesh.shape.items() if size > 1},
        fits=not told and memory["peak"] <= chip.memory if chip else None,
        told=told,
        memory=memory,
        limit=chip.memory if chip else None,
        largest=largest,
        compile_s=seconds,
        hlo_bytes=len(text),
        flops=work,
        collectives=found,
        at_least_s=_at_least(chip, work / program.mesh.size, memory, found) if chip else {},
    )


def shard_bytes(abstract: Any, *, on_host: bool = False) -> int:
    """Bytes that one device holds of an abstract tree with shardings, in its own memory or in the
    host's.
    """
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(abstract)
        if (leaf.sharding.memory_kind == HOST) is on_host
    )


def _compile(lowered: Any, options: dict[str, Any]) -> tuple[Any, str]:
    """The executable, or what the compiler said when memory did not suffice."""
    try:
        with unkept():
            return lowered.compile(compiler_options=options), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, str(error).strip().split("\n")[0]


def _at_least(
    chip: Chip, work: float, memory: dict[str, int], found: tuple[Collective, ...]
) -> dict[str, float]:
    # What the host keeps passes through the device's memory all the same.
    state = sum(memory[name] for name in ("parameters", "optimizer", "other_state", "host"))
    return {
        "compute": work / chip.flops,
        "memory": 2 * state / chip.memory_bandwidth,
        "network": sum(one.total for one in found) / chip.network,
    }


def _laid_out(program: Program) -> dict[str, int]:
    """Bytes of one device's part of the state and of a batch, and of what the host keeps for it."""
    state = program.abstract
    rest = state.replace(params=(), opt=())
    parts = {
        "parameters": state.params,
        "optimizer": state.opt,
        "other_state": rest,
        "batch": program.batch,
    }
    held = {name: shard_bytes(part) for name, part in parts.items()}
    return held | {"host": shard_bytes(state, on_host=True)}


def _as_compiled(executable: Any) -> dict[str, int]:
    stats = executable.memory_analysis()
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    more = stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak = arguments + temporaries + more + stats.generated_code_size_in_bytes
    return {"arguments": arguments, "temporaries": temporaries, "peak": peak}


def _text(executable: Any, folder: Path) -> str:
    """The compiled HLO; some TPU programs, and those that did not fit, are only in the dump."""
    try:
        if executable:
            return executable.as_text()
    except jax.errors.JaxRuntimeError:
        pass
    found = [path for path in folder.iterdir() if OPTIMISED.search(path.name)]
    return max(found, key=lambda path: path.stat().st_size).read_text() if found else ""


def _largest(folder: Path) -> tuple[str, ...]:
    """Size and shapes of the largest buffers, of the report that the compiler leaves."""
    for path in folder.glob("*memory-usage-report.txt"):
        found = BUFFER.findall(path.read_text())[:LARGEST]
        return tuple(f"{size}  {shapes}" for size, shapes in found)
    return ()
