"""Cycles of the kernels and of XLA's own fusions on absent TPUs, as the compiler estimates them.

Both take and give the same. Blocks are those of the table.

Run:    python -m jaxdl.kernels.layer_norm.bench [--write FILE] [--only v6e:2x2,rms]
Needs:  libtpu (the extra `aot`), no TPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from jaxdl.kernels import records
from jaxdl.kernels.absent_tpu import KINDS, AbsentTpu
from jaxdl.kernels.layer_norm.programs import NORMS, PASSES, SHAPES

PROGRAM = "jaxdl.kernels.layer_norm.programs:program"


def found(only: str) -> Iterator[dict[str, Any]]:
    """What is known of each program whose TARGET,NORM,PASS begin so."""
    with AbsentTpu() as compiler:
        for target, norm, name in product(KINDS, NORMS, PASSES):
            if not f"{target},{norm},{name}".startswith(only):
                continue
            impls = {"ours": ("tpu", {"device": KINDS[target]}), "xla": ("reference", {})}
            for shape, (impl, given) in product(SHAPES, impls.items()):
                count = compiler.known(target, PROGRAM, *given, norm, name, *shape)
                case = f"{norm}, {shape[0]} x {shape[1]}, bfloat16"
                yield records.cycles("layer_norm", case, target, name, impl=impl, cycles=count)


if __name__ == "__main__":
    records.command(__doc__, found, "TARGET,NORM,PASS")
