"""Training steps of models through the attention kernel and through its reference, on this machine.

Run:    JAX_PLATFORMS=cpu python -m jaxdl.bench.attention >> kernels/results/cpu.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.bench import machine
from jaxdl.kernels.dispatch import forced
from jaxdl.kernels.flash_attention.bench import in_turns
from jaxdl.models.gpt import GPT
from jaxdl.models.vit import ViT


def models() -> dict[str, tuple[Any, jax.Array]]:
    """A model and its input by name: a GPT at 2,048 tokens, a ViT at 1,024."""
    tokens = jnp.zeros((1, 2048), jnp.int32)
    images = jnp.zeros((2, 256, 256, 3))
    return {
        "GPT 2048": (GPT(256, 384, 2, 6, 2048), tokens),
        "ViT 1024": (ViT(classes=10, patch=8, width=384, depth=2, heads=6), images),
    }


def compiled(model: Any, x: jax.Array, impl: str | None) -> tuple[Callable[[], Any], float]:
    """A call of the gradient of the mean output, and megabytes of temporary memory."""
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def loss(variables, x):
        return (model.apply(variables, x) ** 2).mean()

    # Of its own, since what is forced is no part of jit's cache key.
    step = jax.jit(lambda *args: jax.grad(loss)(*args))
    if impl is None:
        ready = step.lower(variables, x).compile()
    else:
        with forced(impl):
            ready = step.lower(variables, x).compile()
    memory = ready.memory_analysis().temp_size_in_bytes / 1e6
    return lambda: jax.block_until_ready(ready(variables, x)), memory


def measure(model: Any, x: jax.Array) -> dict[str, dict[str, float | None]]:
    """Milliseconds of wall and processor time, and megabytes, of both."""
    named = {"kernel": None, "reference": "reference"}
    return in_turns({name: compiled(model, x, impl) for name, impl in named.items()})


def main() -> None:
    """Prints a JSON object for each model."""
    for name, (model, x) in models().items():
        record = {"bench": "models", "model": name, **measure(model, x)}
        print(json.dumps(record | machine.describe(("jax", "jaxlib", "flax"))), flush=True)


if __name__ == "__main__":
    main()
