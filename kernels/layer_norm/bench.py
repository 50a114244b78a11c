"""Cycles of the kernels and of XLA's own fusions on absent TPUs, as the compiler estimates them.

A static model: good for comparing programs for one chip, of the same inputs and outputs.

Run:    python -m jaxdl.kernels.layer_norm.bench            # all shapes, by the table of blocks
        python -m jaxdl.kernels.layer_norm.bench --blocks   # one shape, by several sizes of blocks
Needs:  libtpu (the extra `aot`), no TPU.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

TARGETS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""Tells libtpu not to look for TPUs."""
SHAPES = ((8192, 768), (4096, 2048), (8192, 4096), (2048, 8192))
"""Rows and features, in bfloat16."""
SIZES = tuple(2**n for n in range(16, 23))
"""Bytes of a block."""
CYCLES = re.compile(r"estimated_cycles: (\d+)\s+num_equivalent_hlos: (\d+)")


def main() -> None:
    """Prints a row of a Markdown table for every shape."""
    with tempfile.TemporaryDirectory() as folder:
        # Read when libtpu is loaded.
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_static_llo_profile_to={folder}"
        os.environ.update({"JAX_PLATFORMS": "cpu"} | ALONE)
        for line in _sizes(folder) if "--blocks" in sys.argv else _shapes(folder):
            print(line, flush=True)


def _shapes(folder: str) -> Iterator[str]:
    from jaxdl.kernels.layer_norm import reference, tpu

    for target in TARGETS:
        for shape in SHAPES:
            for kind in ("layer", "rms"):
                cells = []
                for name in ("forward", "with residual", "backward"):
                    pair = [
                        cycles(folder, target, shape, kind, name, module)
                        for module in (reference, tpu)
                    ]
                    cells.append("{:,} / {:,}".format(*pair))
                yield f"| {target} | {'x'.join(map(str, shape))} | {kind} | {' | '.join(cells)} |"


def _sizes(folder: str) -> Iterator[str]:
    from jaxdl.kernels.layer_norm import tpu
    from jaxdl.kernels.layer_norm.blocks import TPU, Blocks

    for target in TARGETS:
        for name in ("forward", "backward"):
            cells = []
            for size in SIZES:
                TPU.clear()
                TPU[""] = Blocks(size, size)
                cells.append(cycles(folder, target, (4096, 2048), "layer", name, tpu))
            yield f"| {target} | {name} | {' | '.join(map(str, cells))} |"


def cycles(
    folder: str, target: str, shape: tuple[int, int], kind: str, name: str, module: Any
) -> int | None:
    """Of one program; None where it does not compile."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    device = topologies.get_topology_desc(target, platform="tpu").devices[0]
    place = partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
    function, arguments = _program(module, shape, kind, name, device.device_kind)
    arguments = [None if a is None else place(a.shape, a.dtype) for a in arguments]
    for path in Path(folder).iterdir():
        path.unlink()
    try:
        jax.jit(function).lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "vmem" in str(error):
            return None
        raise
    found = [CYCLES.findall(path.read_text(errors="ignore")) for path in Path(folder).iterdir()]
    if not found or not all(found):
        raise RuntimeError(f"{target} {name}: the compiler left no cycles for an operation.")
    return sum(int(each) * int(count) for one in found for each, count in one)


def _program(
    module: Any, shape: tuple[int, int], kind: str, name: str, device: str
) -> tuple[Callable, tuple]:
    """A function and what it takes."""
    import jax
    import jax.numpy as jnp

    from jaxdl.kernels.layer_norm import reference

    norm = reference.Norm(1e-5, kind == "layer", jnp.dtype(jnp.bfloat16))
    options = {"norm": norm} | ({} if module is reference else {"device": device})
    rows = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    weight = jax.ShapeDtypeStruct(shape[1:], jnp.float32)
    bias = weight if norm.center else None
    if name == "backward":
        return partial(module.backward, **options), (rows, rows, None, weight)
    if name == "with residual":
        return partial(module.forward, **options), (rows, rows, weight, bias)
    # h is x: only y is a result.
    return lambda *given: module.forward(*given, **options)[0], (rows, None, weight, bias)


if __name__ == "__main__":
    main()
