"""The one place where experiment, mesh and jit meet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl import parallel
from jaxdl.core.errors import InputError, suggest
from jaxdl.core.experiment import Experiment
from jaxdl.core.precision import policy
from jaxdl.core.task import Batch
from jaxdl.train import layout
from jaxdl.train.deterministic import Deterministic, check_deterministic
from jaxdl.train.functions import Functions, functions
from jaxdl.train.packed import pack
from jaxdl.train.program import Program
from jaxdl.train.state import State

log = logging.getLogger("jaxdl")


def build(exp: Experiment, devices: Sequence[jax.Device] | None = None) -> Program:
    """The experiment's program on `devices` (default: all), traced but not compiled.

    Everything that can be known to be wrong without running is refused here.

    Raises:
        InputError: the parts of the experiment do not fit each other or the devices.
    """
    mesh = parallel.make_mesh(devices, **exp.mesh)
    rules = parallel.resolve(exp.rules)
    _check_mesh(exp, mesh, rules)
    batch, eval_batch, sizes = layout.batches(exp, mesh, rules)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    with _fitting(batch):
        fns = functions(exp, batch, on_cpu=on_cpu)
        boxed = jax.eval_shape(fns.init)
        abstract = jax.eval_shape(fns.create)
    with parallel.recorded() as used:
        state = layout.state_shardings(abstract, boxed, fns.players, mesh, rules)
    everywhere = NamedSharding(mesh, PartitionSpec())
    step, state = _at_rest(exp, _packing(fns.step), state, on_cpu)

    def jit(fn: Callable, **kwargs: Any) -> Any:
        return jax.jit(_traced_once(fn, mesh, rules), **kwargs)

    at_train, at_eval = map(_shardings, (batch, eval_batch))
    abstract = jax.tree.map(lambda x, s: x.update(sharding=s), abstract, state)
    if exp.deterministic_shards:
        init, step = _deterministic(exp, fns, abstract, batch, jit)
    else:
        given, results = (state, at_train), (state, everywhere)
        step = jit(step, in_shardings=given, out_shardings=results, donate_argnums=0)
        # The seed is an argument: a cache of compiled programs then serves all seeds.
        init = partial(jit(fns.create, out_shardings=state), np.uint32(exp.seed))
    held_out = (
        jit(fn, in_shardings=(state, at_eval, None), out_shardings=everywhere)
        for fn in (fns.evaluate, fns.predict)
    )
    shapes = abstract, batch, eval_batch
    program = Program(exp, fns.players, init, step, *held_out, *shapes, mesh, rules)
    with parallel.recorded() as also:
        kernels = _check(program, sizes)
    _check_axes(mesh, used | also | set(parallel.axes_of(rules["batch"])))
    return replace(program, kernels=kernels)


def _deterministic(
    exp: Experiment, fns: Functions, abstract: State, batch: Batch, jit: Callable
) -> tuple[Callable[[], State], Deterministic]:
    """`init` and `step` of the bit-identical mode."""
    cut = partial(jit, in_shardings=(_shardings(batch),))
    with _fitting(batch):
        step = Deterministic(fns.step, abstract, batch, exp.deterministic_shards, cut)
    return step.first(fns.create), step


def _traced_once(fn: Callable, mesh: Mesh, rules: Mapping) -> Callable:
    """`fn` under the mesh and rules; it refuses to be traced for anything but its first shapes."""
    first = []

    def traced(*args):
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
        if first and first[0] != shapes:
            built, called = (_leaves(_batch_of(seen)) for seen in (first[0], shapes))
            called = called if called != built else "another state"
            raise InputError(f"the program was built for a batch of {built}, not for {called}.")
        first.append(shapes)
        with parallel.scope(mesh, rules):
            return fn(*args)

    return traced


def _batch_of(args: Sequence[Any]) -> Batch:
    return next(x for x in args if isinstance(x, Mapping))


def _packing(step: Callable) -> Callable:
    def packing(state, batch):
        state, metrics = step(state, batch)
        return state, pack(metrics)

    return packing


def _at_rest(exp: Experiment, step: Callable, state: State, on_cpu: bool) -> tuple[Callable, State]:
    """`step` of a state as it lies between updates, and its layout."""
    if exp.optimizer_memory == "device":
        return step, state
    if on_cpu:
        log.info("optimizer_memory='host' changes nothing on CPU, which has no other memory.")
        return step, state

    def fetching(held, batch):
        return step(held.replace(opt=jax.device_put(held.opt, state.opt)), batch)

    return fetching, layout.on_host(state)


def _leaves(batch: Batch) -> str:
    return ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in batch.items())


def _shardings(batch: Batch) -> dict[str, NamedSharding]:
    return {name: leaf.sharding for name, leaf in batch.items()}


def _check(program: Program, sizes: Mapping[str, int]) -> tuple[parallel.KernelChoice, ...]:
    """Traces every function of the program, so that a misfit shows before the first device work;
    by what the kernels run in those that training runs.
    """
    exp = program.experiment
    with _fitting(program.eval_batch):
        outputs = program.predict.eval_shape(program.abstract, program.eval_batch, 0)
        if hasattr(exp.task, "check"):
            exp.task.check(exp.model, outputs, sizes)
    with parallel.recorded_kernels() as kernels:
        with _fitting(program.batch):
            program.step.eval_shape(program.abstract, program.batch)
        with _fitting(program.eval_batch):
            program.evaluate.eval_shape(program.abstract, program.eval_batch, 0)
    return tuple(kernels)


def _check_mesh(exp: Experiment, mesh: Mesh, rules: Mapping[str, Any]) -> None:
    check_deterministic(exp, mesh)
    for name, rule in rules.items():
        for axis in parallel.axes_of(rule) if name not in parallel.METHODS else ():
            if axis not in mesh.shape:
                raise InputError(
                    f"the rules put {name!r} on mesh axis {axis!r}, which is not there; "
                    f"{suggest(axis, mesh.shape)}."
                )
    if exp.local_rate and mesh.shape["pipe"] > 1:
        raise InputError(
            f"local_rate={exp.local_rate} takes micro-batches one after the other, and a pipeline "
            "at the same time; set mesh.pipe=1 or local_rate=0."
        )
    if exp.local_rate and policy(exp.precision).scaled:
        raise InputError(
            f"local_rate={exp.local_rate} would step along the scaled gradients of "
            f"precision={exp.precision!r}; use 'bf16' or 'f32'."
        )


def _check_axes(mesh: Mesh, used: set[str]) -> None:
    for name, size in mesh.shape.items():
        if size > 1 and name not in used:
            raise InputError(
                f"nothing in this experiment is divided over mesh axis {name!r}, so its {size} "
                f"devices would all do the same; set mesh.{name}=1, or map a name to it in the "
                "rules."
            )


@contextmanager
def _fitting(batch: Batch) -> Iterator[None]:
    """Turns what tracing raises into one message that shows the batch."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        first = str(error).strip().split("\n")[0].rstrip(".")
        if isinstance(error, KeyError):
            first = f"the task asks for the leaf {first}, which the batch lacks"
        if "argument 'train'" in first:
            first += "; a model's __call__ takes `*, train: bool = False`"
        raise InputError(
            f"model, task and data do not fit: {type(error).__name__}: {first}. "
            f"The batch is {_leaves(batch)}. "
            "(JAXDL_TRACEBACK=1 shows where.)"
        ) from error
