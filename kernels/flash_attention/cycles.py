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

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.kernels import records
from jaxdl.kernels.absent_tpu import KINDS, AbsentTpu
from jaxdl.kernels.flash_attention import tpu
from jaxdl.kernels.flash_attention.blocks import TpuBlocks
from jaxdl.kernels.flash_attention.spec import Extras, Spec

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
PROGRAM = "jaxdl.kernels.flash_attention.cycles:program"
AS_IS = 2048, "forward"
"""Where splash is also estimated as it is."""
KERNELS = "flash_|splash_"


def found(only: str) -> Iterator[dict[str, Any]]:
    """What is known of each program whose TARGET,LENGTH,DIRECTION,IMPL begin so."""
    with AbsentTpu() as compiler:
        for target, (length, direction), impl, blocks in _programs():
            if not f"{target},{length},{direction},{impl}".startswith(only):
                continue
            given = direction, length, impl, blocks, KINDS[target]
            yield records.cycles(
                *("flash_attention", f"causal, T {length}, {HEADS} heads of {SIZE}, bfloat16"),
                *(target, direction),
                **{"impl": impl, "blocks": blocks},
                cycles=compiler.known(target, PROGRAM, *given, only=KERNELS),
            )


def _programs() -> Iterator[tuple[str, tuple[int, str], str, tuple[int, ...] | None]]:
    for target, (case, sizes) in product(TARGETS, SIZES.items()):
        yield target, case, "ours", None
        for blocks in sizes:
            yield target, case, "splash, scheduled", blocks
        if case == AS_IS:
            yield target, case, "splash, as is", sizes[0]


def program(
    direction: str, length: int, impl: str, blocks: list[int] | None, device: str
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function, and its arguments' shapes and dtypes; without blocks it is ours, by the table."""
    given = _arguments(direction, length, SIZE)
    if blocks is None:
        return ours(direction, SIZE, device, None), given
    return _splash(direction, length, blocks, impl), given


def in_blocks(direction: str, length: int, size: int, blocks: dict[str, int]) -> tuple:
    """The same of ours with heads of any size, in blocks as the table has them."""
    given = _arguments(direction, length, size)
    return ours(direction, size, "", TpuBlocks(**blocks)), given


def _arguments(direction: str, length: int, size: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Of q, k, v, and going back of y, the log-sum-exp and dy."""
    x = jax.ShapeDtypeStruct((HEADS, length, size), jnp.bfloat16)
    lse = jax.ShapeDtypeStruct((HEADS, length), jnp.float32)
    return (x, x, x) if direction == "forward" else (x, x, x, x, lse, x)


def ours(direction: str, size: int, device: str, blocks: TpuBlocks | None) -> Callable[..., Any]:
    """Causal attention of arrays [H, T, K], as splash takes them."""
    spec, turned = Spec(size**-0.5, right=0, device=device), partial(_turned, (0, 1))

    def forward(q, k, v):
        y, lse = tpu.forward(spec, turned(q), turned(k), turned(v), Extras(), blocks)
        return y[0].swapaxes(0, 1), lse

    def backward(q, k, v, y, lse, dy):
        qkv, rest = map(turned, (q, k, v)), (turned(y), lse[None], turned(dy))
        dlse = jnp.zeros_like(lse[None])
        *gradients, _ = tpu.backward(spec, False, *qkv, Extras(), *rest, dlse, blocks)
        return [dx[0].swapaxes(0, 1) for dx in gradients]

    return forward if direction == "forward" else backward


def _turned(axes: tuple[int, int], x: Any) -> Any:
    return x.swapaxes(*axes)[None]


@cache
def _looked_up(splash: Any) -> Callable[..., Any]:
    """How splash finds its next block, before it is changed."""
    return splash._next_nonzero


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
    as_is = _looked_up(splash)
    splash._next_nonzero = as_is if impl == "splash, as is" else partial(scheduled, rows, keys)
    jax.clear_caches()  # of programs with the other one
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
    from jax import lax

    del h, tables
    needed = (i + 1) * rows > j * keys
    if next_i:
        return jnp.maximum(i, lax.div(j * keys, jnp.int32(rows))), None, needed, False
    return jnp.minimum(j, lax.div((i + 1) * rows - 1, jnp.int32(keys))), None, needed, False


if __name__ == "__main__":
    records.command(__doc__, found, "TARGET,LENGTH,DIRECTION,IMPL")
