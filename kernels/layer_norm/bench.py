"""Cycles of the kernels and of XLA's own fusions on absent TPUs, as the compiler estimates them.

Both take and give the same. Blocks are those of the table.

Run:    python -m jaxdl.kernels.layer_norm.bench [--write FILE] [--only v6e:2x2,rms]
Needs:  libtpu (the extra `aot`), no TPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from jaxdl.kernels import records
from jaxdl.kernels.absent_tpu import KINDS, AbsentTpu
from jaxdl.kernels.layer_norm.programs import NORMS, PASSES, SHAPES

PROGRAM = "jaxdl.kernels.layer_norm.programs:program"


def main() -> None:
    """Prints a JSON object for each program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, help="a result file")
    parser.add_argument("--only", default="", help="TARGET,NORM,PASS, or a beginning of it")
    given = parser.parse_args()
    with AbsentTpu() as compiler:
        for record in _records(compiler, given.only):
            print(json.dumps(record), flush=True)
            if given.write:
                records.add(given.write, record)


def _records(compiler: AbsentTpu, only: str) -> Iterator[dict[str, Any]]:
    for target, norm, name in product(KINDS, NORMS, PASSES):
        if not f"{target},{norm},{name}".startswith(only):
            continue
        impls = {"ours": ("tpu", {"device": KINDS[target]}), "xla": ("reference", {})}
        for shape, (impl, given) in product(SHAPES, impls.items()):
            found = compiler.known(target, PROGRAM, *given, norm, name, *shape)
            case = f"{norm}, {shape[0]} x {shape[1]}, bfloat16"
            yield records.of("layer_norm", case, target, name, impl, None, found)


if __name__ == "__main__":
    main()
