"""Kernels as this device runs them against their references in float64: every feature, forward and
backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxdl.kernels.dispatch import strict
from jaxdl.kernels.flash_attention import flash_attention, seeds_of
from jaxdl.kernels.layer_norm import layer_norm, rms_norm
from jaxdl.kernels.linear_cross_entropy import linear_cross_entropy

EXACT = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 4e-3}
"""Largest error allowed, of the largest entry or of 1; float32 products may be of tf32."""
ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "causal, odd lengths": {"causal": True, "lengths": (333, 471)},
    "rows that see nothing": {"causal": True, "lengths": (256, 200)},
    "one head of keys for all": {"causal": True, "heads": (8, 1)},
    "window": {"window": (70, 30)},
    "causal window, capped": {"causal": True, "window": 99, "soft_cap": 1.5},
    "segments": {"causal": True, "segments": True},
    "bias": {"bias": True},
    "dropout": {"causal": True, "dropout": 0.3},
    "scale": {"scale": 0.3},
    "packed": {"causal": True, "window": 99, "segments": True, "dropout": 0.3, "heads": (8, 2)},
    "everything": {
        **{"causal": True, "window": 99, "segments": True, "dropout": 0.3, "heads": (4, 1)},
        **{"bias": True, "soft_cap": 1.5, "lengths": (333, 333)},
    },
    **{f"head size {n}": {"causal": True, "size": n} for n in (40, 64, 80, 96, 128, 256)},
}


SOME = ("causal, odd lengths", "bias", "dropout")
"""Those that are run in every dtype, the others in bfloat16."""


def parity(cases: Sequence[str] = tuple(ATTENTION)) -> Iterator[dict]:
    """A record per case and dtype: the largest error, and whether it is small enough."""
    for dtype in EXACT:
        for name in cases:
            if dtype == "bfloat16" or name in SOME:
                yield _compared("flash_attention", name, dtype, *_attention(**ATTENTION[name]))
        for name, (function, arrays) in _others().items():
            yield _compared(name, "", dtype, function, arrays)


def _attention(
    lengths: tuple[int, int] = (384, 384),
    heads: tuple[int, int] = (4, 2),
    size: int = 64,
    bias: bool = False,
    segments: bool = False,
    **static: Any,
) -> tuple[Callable, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    (time, keys), (count, groups) = lengths, heads
    arrays = {
        "q": rng.normal(size=(2, time, count, size)),
        "k": rng.normal(size=(2, keys, groups, size)),
        "v": rng.normal(size=(2, keys, groups, size)),
    }
    if bias:
        arrays["bias"] = rng.normal(size=(1, count, time, keys))
    if segments:
        for name, n in (("q_segments", time), ("kv_segments", keys)):
            arrays[name] = np.sort(rng.integers(0, 4, (2, n)), 1).astype(np.int32)
    if static.get("dropout"):
        arrays["seeds"] = np.asarray(seeds_of(jax.random.key(1), 2, count))

    def run(impl, **arrays):
        return flash_attention(**arrays, **static, impl=impl)

    return run, arrays


def _others() -> dict[str, tuple[Callable, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    x, scale, bias = (rng.normal(size=shape) for shape in ((700, 1100), 1100, 1100))
    table, labels = rng.normal(size=(5000, 1100)) / 33, rng.integers(5000, size=700)

    def residual(impl, x, residual, scale, bias):
        return layer_norm(x, scale, bias, residual=residual, impl=impl)

    def entropy(impl, x, table, labels):
        return linear_cross_entropy(x, table, labels, tied=True, impl=impl).total

    return {
        "layer_norm": (residual, {"x": x, "residual": x[::-1], "scale": scale, "bias": bias}),
        "rms_norm": (
            _rms,
            {"x": x, "scale": scale},
        ),
        "linear_cross_entropy": (
            entropy,
            {"x": x, "table": table, "labels": labels.astype(np.int32)},
        ),
    }


def _rms(impl: str | None, x: Array, scale: Array) -> Array:
    return rms_norm(x, scale, impl=impl)


def _compared(kernel: str, case: str, dtype: str, function: Callable, arrays: dict) -> dict:
    record = {"kernel": kernel, "case": case, "dtype": dtype}
    given = {n: x.astype(dtype) if x.dtype.kind == "f" else x for n, x in arrays.items()}
    try:
        with strict():  # else what is refused would be the reference beside itself
            found = _everything(function, None, given)
        with jax.enable_x64(True):
            wide = {n: x.astype("float64") if n in _floats(given) else x for n, x in given.items()}
            right = _everything(function, "reference", wide)
    except Exception as error:  # the other cases are told of still
        return record | {"error": f"{type(error).__name__}: {error}".split("\n")[0], "fine": False}
    worst = max(_error(x, y) for x, y in zip(found, right, strict=True))
    return record | {"worst": worst, "fine": bool(worst <= EXACT[dtype])}


def _everything(function: Callable, impl: str | None, given: dict[str, Any]) -> list[np.ndarray]:
    """Results and all gradients."""
    learned = {n: jnp.asarray(given[n]) for n in _floats(given)}
    rest = {n: jnp.asarray(x) for n, x in given.items() if n not in learned}

    @jax.jit
    def run(learned, rest):
        y, pull = jax.vjp(lambda learned: function(impl, **learned, **rest), learned)
        return y, pull(jax.tree.map(_cotangent, y))

    return [np.asarray(x, np.float64) for x in jax.tree.leaves(run(learned, rest))]


def _cotangent(y: Array) -> Array:
    return jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)


def _floats(given: dict[str, Any]) -> list[str]:
    return [n for n, x in given.items() if jnp.issubdtype(x.dtype, jnp.floating)]


def _error(found: np.ndarray, right: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - right).max() / max(1.0, np.abs(right).max()))
