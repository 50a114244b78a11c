"""Which implementation of a kernel runs on each platform, and why another does not.

An implementation is named after the file that holds it: `cpu`, `gpu`, `tpu`, `reference`. Each
platform tries its own and then the reference, which runs everything everywhere.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax

from jaxdl.core.errors import InputError, suggest

LOG = logging.getLogger("jaxdl")
OWN = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}
"""The implementation made for each of JAX's platforms."""


@dataclass(frozen=True)
class Choice:
    """What one shape of a kernel runs by on a platform; `refused` says why not by its own."""

    kernel: str
    platform: str
    shape: str
    took: str
    refused: str | None


_said: set[Choice] = set()
_heard: ContextVar[dict[Choice, None] | None] = ContextVar("heard_choices", default=None)
_forced: ContextVar[str | None] = ContextVar("forced_kernels", default=None)
_strict: ContextVar[bool] = ContextVar("strict_kernels", default=False)


@contextlib.contextmanager
def recording() -> Iterator[dict[Choice, None]]:
    """The choices that are made while its body traces programs, in order, each once."""
    heard: dict[Choice, None] = {}
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


@contextlib.contextmanager
def strict(on: bool = True) -> Iterator[None]:
    """Makes it an error, at the time of tracing, that a platform's own implementation refuses."""
    token = _strict.set(on)
    try:
        yield
    finally:
        _strict.reset(token)


@contextlib.contextmanager
def forced(impl: str) -> Iterator[None]:
    """Runs `impl` wherever none is asked for by name, for comparisons of whole models."""
    token = _forced.set(impl)
    try:
        yield
    finally:
        _forced.reset(token)


def dispatch(
    kernel: str,
    shape: str,
    implementations: Mapping[str, Callable[..., Any]],
    refusals: Mapping[str, str | None],
    impl: str | None,
    *args: Any,
) -> Any:
    """Calls `impl`, or on each platform the first implementation that does not refuse.

    Args:
        kernel, shape: what is asked for, in messages; a shape is logged once.
        implementations: name -> function of `args`; `reference` is among them.
        refusals: name -> why it cannot run these arguments, and what it could run.
        impl: forces one; None picks, if no `forced` surrounds it.
        *args: arrays, or trees of them.

    Raises:
        InputError: `impl` is unknown or refuses; in `strict` mode, the expected platform's does.
    """
    impl = impl or _forced.get()
    if impl is not None:
        _check(kernel, shape, implementations, refusals.get(impl), impl)
        _note(Choice(kernel, expected_platform(), shape, impl, None))
        return implementations[impl](*args)
    taken = {
        platform: own if own in implementations and not refusals.get(own) else "reference"
        for platform, own in OWN.items()
    }
    platform = expected_platform()
    if platform in OWN:
        _note(Choice(kernel, platform, shape, taken[platform], refusals.get(OWN[platform])))
    by_platform = {platform: implementations[name] for platform, name in taken.items()}
    return jax.lax.platform_dependent(*args, **by_platform, default=implementations["reference"])


def decided(impl: str | None) -> str | None:
    """The implementation that surely runs: the one asked for, or forced, or that of the devices of
    the surrounding mesh. None without: then the program may be compiled for any platform.
    """
    known = jax.sharding.get_abstract_mesh().abstract_device is not None
    return impl or _forced.get() or (OWN.get(expected_platform()) if known else None)


def expected_platform() -> str:
    """Where the program that is being traced will probably run: the mesh's devices, or the default.

    Good enough for messages; what runs is decided by `platform_dependent`, when it is compiled.
    """
    platform = expected_device().platform
    return "cuda" if platform == "gpu" else platform


def expected_device() -> Any:
    """A device of the surrounding mesh, or the default one."""
    return jax.sharding.get_abstract_mesh().abstract_device or jax.local_devices()[0]


def _check(kernel, shape, implementations, refusal, impl) -> None:
    if impl not in implementations:
        raise InputError(f"{kernel} has no impl={impl!r}; {suggest(impl, implementations)}")
    if refusal:
        raise InputError(f"{kernel}: impl={impl!r} cannot run {shape}: {refusal}")


def _note(choice: Choice) -> None:
    if choice.refused and _strict.get():
        raise InputError(
            f"{choice.kernel} on {choice.platform} would run {choice.shape} by {choice.took}, "
            f"because {choice.refused}; without strict kernels it does."
        )
    if choice.refused and choice not in _said:
        _said.add(choice)
        LOG.warning(
            "%s on %s: %s runs by %s, because %s",
            *(choice.kernel, choice.platform, choice.shape, choice.took, choice.refused),
        )
    if (heard := _heard.get()) is not None:
        heard[choice] = None
