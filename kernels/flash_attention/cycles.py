"""Cycles of causal attention on absent TPUs, as the compiler estimates them: ours and JAX's splash.

The estimate runs a program's scalars through its whole grid, and takes memory to be zeros. Splash
attention looks up in tables which blocks it needs, and in zeros it finds none: left alone, the
estimate is of a kernel that computes nothing (`as_is`). Here it computes the same from its place in
the grid (`scheduled`). Ours always does.

Counted are the kernels alone. What splash does beside (a sum over its gradients of queries) and
what we do (queries by the scale, the cotangent by the output) is not.

Run:    python -m jaxdl.kernels.flash_attention.cycles [--write FILE] [--only v6e:2x2,2048]
Needs:  libtpu (the extra `aot`), no TPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

TARGETS = "v5p:2x2x1", "v6e:2x2"
HEADS, SIZE = 2, 128
"""Two heads, since a v5p divides them over two cores."""
SIZES = {
    (2048, "forward"): [(512, 512, 512), (1024, 1024, 512), (1024, 2048, 512)],
    (8192, "forward"): [(1024, 1024, 512), (1024, 2048, 512)],
    (2048, "backward"): [(512, 512, 512), (1024, 1024, 512), (1024, 1024, 1024), (512, 512)],
    (8192, "backward"): [(1024, 1024, 512), (1024, 1024, 1024)],
}
"""Splash's blocks of queries, of keys, and of keys at a time; a pair is for two kernels."""
MODULE = "jaxdl.kernels.flash_attention.cycles"
AS_IS = 2048, "forward"
"""Where splash is also estimated as it is."""
CYCLES = re.compile(r"estimated_cycles: (\d+)\s+num_equivalent_hlos: (\d+)")


def main() -> None:
    """Prints a JSON object for each program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, help="a result file")
    parser.add_argument("--only", default="", help="TARGET,LENGTH,DIRECTION, or a beginning of it")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_cycles(*json.loads(given.one))))
        return
    for record in _records(given.only):
        print(json.dumps(record), flush=True)
        if given.write:
            add(given.write, record)


def _records(only: str) -> Iterator[dict[str, Any]]:
    for target in TARGETS:
        for (length, direction), sizes in SIZES.items():
            if not f"{target},{length},{direction}".startswith(only):
                continue
            programs = [("ours", None), *(("splash, scheduled", x) for x in sizes)]
            if (length, direction) == AS_IS:
                programs.append(("splash, as is", sizes[0]))
            for impl, blocks in programs:
                yield record(target, length, direction, impl, blocks)


def record(target: str, length: int, direction: str, impl: str, blocks: Any) -> dict[str, Any]:
    """What is known of one program; None cycles where it fails."""
    return {
        "op": "flash_attention",
        "case": f"causal, T {length}, {HEADS} heads of {SIZE}, bfloat16",
        **{"target": target, "direction": direction, "impl": impl},
        "blocks": list(blocks) if blocks else None,
        "cycles": _in_child((target, length, direction, impl, blocks)),
        "hardware": "none: compiled for an absent TPU",
        "versions": {name: version(name) for name in ("jax", "libtpu")},
        "date": datetime.date.today().isoformat(),
    }


def add(path: Path, record: dict[str, Any]) -> None:
    """Appends to a file of results, in place of what it says of the same program."""
    lines = path.read_text().splitlines() if path.exists() else []
    others = [line for line in lines if _program(json.loads(line)) != _program(record)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*others, json.dumps(record)]) + "\n")


def _program(record: dict[str, Any]) -> tuple:
    return tuple(str(record[name]) for name in ("case", "target", "direction", "impl", "blocks"))


def _in_child(given: tuple) -> int | None:
    """The compiler reads the flag once, aborts at operations it cannot time, and runs alone."""
    with tempfile.TemporaryDirectory() as folder:
        alone = {
            **{"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"},
            **{"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost"},
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_static_llo_profile_to={folder}",
        }
        command = [sys.executable, "-m", MODULE, "--one", json.dumps([folder, *given])]
        done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _cycles(
    folder: str, target: str, length: int, direction: str, impl: str, blocks: list[int] | None
) -> int:
    """Of the kernels of one program."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    place = SingleDeviceSharding(topologies.get_topology_desc(target, "tpu").devices[0])
    x = jax.ShapeDtypeStruct((HEADS, length, SIZE), jnp.bfloat16, sharding=place)
    lse = jax.ShapeDtypeStruct((HEADS, length), jnp.float32, sharding=place)
    run = _ours(direction) if blocks is None else _splash(direction, length, blocks, impl)
    given = (x, x, x) if direction == "forward" else (x, x, x, x, lse, x)
    jax.jit(run).lower(*given).compile()
    kernels = [path for path in Path(folder).iterdir() if re.match("flash_|splash_", path.name)]
    found = [CYCLES.findall(path.read_text(errors="ignore")) for path in kernels]
    if not found or not all(found):
        raise RuntimeError(f"{target} {impl}: the compiler left no cycles for a kernel.")
    return sum(int(each) * int(count) for one in found for each, count in one)


def _ours(direction: str) -> Callable[..., Any]:
    """Of arrays [H, T, K], as splash takes them."""
    import jax.numpy as jnp

    from jaxdl.kernels.flash_attention import tpu
    from jaxdl.kernels.flash_attention.spec import Extras, Spec

    spec, turned = Spec(SIZE**-0.5, right=0), partial(_turned, (0, 1))

    def forward(q, k, v):
        y, lse = tpu.forward(spec, turned(q), turned(k), turned(v), Extras())
        return y[0].swapaxes(0, 1), lse

    def backward(q, k, v, y, lse, dy):
        qkv, rest = map(turned, (q, k, v)), (turned(y), lse[None], turned(dy))
        dlse = jnp.zeros_like(lse[None])
        *gradients, _ = tpu.backward(spec, False, *qkv, Extras(), *rest, dlse)
        return [dx[0].swapaxes(0, 1) for dx in gradients]

    return forward if direction == "forward" else backward


def _turned(axes: tuple[int, int], x: Any) -> Any:
    return x.swapaxes(*axes)[None]


def _splash(direction: str, length: int, blocks: list[int], impl: str) -> Callable[..., Any]:
    """Splash attention by its blocks of queries, of keys, and of keys at a time."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    rows, keys, some = (*blocks, blocks[1])[:3]
    sizes = {
        **{"block_q": rows, "block_kv": keys, "block_kv_compute": some},
        **{"block_q_dkv": rows, "block_kv_dkv": keys, "block_kv_dkv_compute": some},
        "use_fused_bwd_kernel": len(blocks) == 3,
    }
    if len(blocks) == 2:
        sizes |= {"block_q_dq": rows, "block_kv_dq": keys}
    sizes = splash.BlockSizes(**sizes)
    if impl != "splash, as is":
        splash._next_nonzero = partial(scheduled, rows, keys)
    causal = masks.MultiHeadMask([masks.CausalMask((length, length))] * HEADS)
    shards = {"head_shards": 1, "q_seq_shards": 1}
    forward = splash.make_splash_mha(causal, block_sizes=sizes, **shards)

    def backward(q, k, v, y, lse, dy):
        saved = q, k, v, None, None, y, lse, forward.dq_mask_info, forward.dkv_mask_info
        given = False, splash.DEFAULT_MASK_VALUE, False, sizes, None
        given = *given, forward.kwargs["mask_function"], None, False
        gradients = splash._splash_attention_bwd(*given, saved, dy)[3:6]
        # Its sum over gradients of queries stops the profiler.
        return gradients[1:] if sizes.use_fused_bwd_kernel else gradients

    return (lambda *qkv: forward(*qkv)) if direction == "forward" else backward


def scheduled(rows: int, keys: int, h: Any, i: Any, j: Any, *tables: Any, next_i: bool = False):
    """What splash's tables say of a causal mask: the block to fetch, no mask of its own, whether to
    compute, and that positions decide.
    """
    import jax.numpy as jnp
    from jax import lax

    del h, tables
    needed = (i + 1) * rows > j * keys
    if next_i:
        return jnp.maximum(i, lax.div(j * keys, jnp.int32(rows))), None, needed, False
    return jnp.minimum(j, lax.div((i + 1) * rows - 1, jnp.int32(keys))), None, needed, False


if __name__ == "__main__":
    main()
