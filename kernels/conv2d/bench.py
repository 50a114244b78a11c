"""Milliseconds of XLA's convolution and of ours, by shape, on one core of this machine.

Run:    taskset -c 0 python -m jaxdl.kernels.conv2d.bench
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.kernels.conv2d import cpu, reference

SHAPES = (
    # batch, height and width, channels, features, kernel, stride: of ResNet-18 on 32x32 images,
    *((64, 32, 64, 64, 3, 1), (64, 32, 64, 128, 1, 2), (64, 16, 128, 128, 3, 1)),
    *((64, 8, 256, 256, 3, 1), (64, 8, 256, 512, 3, 2), (64, 4, 512, 512, 3, 1)),
    # of ResNet-50 on 64x64 images,
    *((16, 64, 3, 64, 7, 2), (16, 16, 64, 64, 3, 1), (16, 16, 64, 256, 1, 1)),
    *((16, 8, 128, 128, 3, 1), (16, 16, 256, 512, 1, 2), (16, 4, 256, 256, 3, 1)),
    *((16, 4, 512, 512, 3, 2), (16, 2, 512, 512, 3, 1), (16, 2, 512, 2048, 1, 1)),
    # of ResNet-50 on 224x224 images, and of LeNet-5.
    *((4, 56, 64, 64, 3, 1), (4, 28, 128, 128, 3, 1), (4, 14, 256, 256, 3, 1)),
    *((4, 7, 512, 512, 3, 1), (4, 56, 256, 64, 1, 1), (64, 14, 6, 16, 5, 1)),
)
BUSY = 0.05
"""Seconds of one measurement; the least of ROUNDS counts, taken in turns."""
ROUNDS = 5


def pairs(shape: tuple[int, ...]) -> dict[str, tuple[dict[str, Callable], tuple[Array, Array]]]:
    """The functions of both, and their arguments, by what they compute."""
    batch, side, channels, features, kernel, stride = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, side, side, channels))
    w = jax.random.normal(keys[1], (kernel, kernel, channels, features))
    pad = kernel // 2
    place = {"stride": (stride, stride), "padding": ((pad, pad),) * 2}
    dy = jnp.cos(reference.forward(x, w, **place))

    def both(name, **static):
        found = {"xla": getattr(reference, name), "ours": getattr(cpu, name)}
        return {who: partial(fn, **place, **static) for who, fn in found.items()}

    return {
        "forward": (both("forward"), (x, w)),
        "input gradient": (both("input_gradient", size=x.shape[1:3]), (dy, w)),
        "kernel gradient": (both("kernel_gradient", size=w.shape[:2]), (x, dy)),
    }


def measure(functions: dict[str, Callable], arguments: tuple[Array, ...]) -> dict[str, float]:
    """Milliseconds of processor time by function."""
    ready = {who: jax.jit(fn).lower(*arguments).compile() for who, fn in functions.items()}
    found = dict.fromkeys(ready, float("inf"))
    for _ in range(ROUNDS):
        for who, run in ready.items():
            start, calls = time.process_time(), 0
            while time.process_time() - start < BUSY:
                jax.block_until_ready(run(*arguments))
                calls += 1
            found[who] = min(found[who], 1e3 * (time.process_time() - start) / calls)
    return found


def main() -> None:
    """Prints a row of a Markdown table for every shape."""
    for shape in SHAPES:
        batch, side, channels, features, kernel, stride = shape
        cells = []
        for functions, arguments in pairs(shape).values():
            took = measure(functions, arguments)
            cells.append(f"{took['xla']:.2f} / {took['ours']:.2f}")
        image, window = f"{batch}x{side}x{side}", f"{kernel}x{kernel}"
        print(
            f"| {image} | {channels} -> {features} | {window}, {stride} |", " | ".join(cells), "|"
        )


if __name__ == "__main__":
    main()
