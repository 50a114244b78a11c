"""Cycles of programs on TPUs that are absent, as their compiler estimates them.

A static model, made of the compiler's schedule: good for comparing programs for one chip, of the
same inputs and outputs. It takes what is in memory for zeros, and knows no waiting for memory.

Needs: libtpu (the extra `aot`), no TPU.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxdl.core.errors import InputError

CYCLES = re.compile(r"estimated_cycles: (\d+)\s+num_equivalent_hlos: (\d+)")
FATAL = re.compile(r"F\d{4} .*?\] (.*)")
OVERFLOW = re.compile(r"Scoped allocation .*? scoped vmem limit|Used [\d.]+\w of [\d.]+\w vmem")
KINDS = {"v5e:2x2": "TPU v5 lite", "v5p:2x2x1": "TPU v5", "v6e:2x2": "TPU v6 lite"}
"""Targets, the smallest of each kind, and what JAX calls their devices."""


class NoCycles(Exception):
    """There is no estimate; the message says why not."""


class Ended(NoCycles):
    """The compiler ended, perhaps for want of memory: another time it may not."""


class AbsentTpu(AbstractContextManager):
    """A process that compiles: the compiler reads its flags once, and ends at what it cannot time.

    Raises:
        InputError: libtpu is not installed.
    """

    def __init__(self) -> None:
        if not find_spec("libtpu"):
            raise InputError("compiling for TPUs needs libtpu; pip install 'jaxdl[aot]'.")
        self._folder, self._said = tempfile.TemporaryDirectory(), tempfile.TemporaryFile("w+")
        self._child: subprocess.Popen[str] | None = None

    def cycles(self, target: str, program: str, *given: Any, only: str = "") -> int:
        """Of the operations whose names begin with `only`.

        Args:
            target: as `jaxdl.core.topology.devices` takes it.
            program: `module:function`, which makes of `given` a function, and the shapes and dtypes
                of its arguments.
            given: what JSON can tell.
            only: a regular expression.

        Raises:
            NoCycles: it does not compile, takes too much of the fast memory, or cannot be timed.
            RuntimeError: the program cannot be made.
        """
        child = self._child = self._child or self._start()
        assert child.stdin and child.stdout
        child.stdin.write(json.dumps([target, program, given, only]) + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        if not answer:
            self._child = None
            child.communicate()
            raise Ended(f"the compiler ended: {self._last_words()}")
        found = json.loads(answer)
        if "bug" in found:
            raise RuntimeError(f"{target} {program} {given}: {found['bug']}")
        if "why" in found:
            raise NoCycles(found["why"])
        return found["cycles"]

    def known(self, *given: Any, only: str = "") -> int | None:
        """As `cycles`; None where there are none, and why not on stderr."""
        try:
            return self.cycles(*given, only=only)
        except NoCycles as error:
            print(*given, error, sep=": ", file=sys.stderr)
            return None

    def __exit__(self, *error: object) -> None:
        """Ends the process."""
        if self._child:
            self._child.communicate()
        self._said.close()
        self._folder.cleanup()

    def _start(self) -> subprocess.Popen[str]:
        flags = f"--xla_jf_dump_static_llo_profile_to={self._folder.name}"
        # A program that is read from a cache leaves no cycles.
        self._said.seek(0)
        self._said.truncate()
        own = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", __name__, self._folder.name],
            **{"stdin": pipe, "stdout": pipe, "stderr": self._said, "text": True},
            env=os.environ | own | {"LIBTPU_INIT_ARGS": flags},
        )

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        fatal = (found[1] for line in lines if (found := FATAL.match(line)))
        return next(fatal, lines[-1] if lines else "")


def _answer(folder: Path, *request: Any) -> dict[str, int | str]:
    try:
        return {"cycles": _estimate(folder, *request)}
    except NoCycles as error:
        return {"why": str(error)}
    except Exception as error:
        return {"bug": repr(error)}


def _estimate(folder: Path, target: str, program: str, given: Sequence, only: str) -> int:
    import jax

    from jaxdl.core.topology import devices, shapes_on

    module, _, name = program.partition(":")
    function, arguments = getattr(importlib.import_module(module), name)(*given)
    arguments = shapes_on(devices(target)[0], arguments)
    for path in folder.iterdir():
        path.unlink()
    try:
        jax.jit(function).lower(*arguments).compile()
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        said = " ".join(str(error).split())
        overflow = OVERFLOW.search(said)
        raise NoCycles(f"overflow: {overflow[0]}" if overflow else said[:300]) from error
    paths = [path for path in folder.iterdir() if re.match(only, path.name)]
    found = [CYCLES.findall(path.read_text(errors="ignore")) for path in paths]
    if not found or not all(found):
        raise NoCycles("the compiler left no cycles for an operation")
    return sum(int(each) * int(count) for one in found for each, count in one)


def main() -> None:
    """Answers requests, a line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like
    for line in sys.stdin:
        print(json.dumps(_answer(Path(sys.argv[1]), *json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
