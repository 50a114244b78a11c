"""The one place where experiment, mesh and jit meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl import parallel
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.task import Batch
from jaxdl.train import layout
from jaxdl.train.functions import functions
from jaxdl.train.packed import pack
from jaxdl.train.program import Program


def build(exp: Experiment, devices: Sequence[jax.Device] | None = None) -> Program:
    """The experiment's program on `devices` (default: all), traced but not compiled.

    Everything that can be known to be wrong without running is refused here.

    Raises:
        InputError: the parts of the experiment do not fit each other or the devices.
    """
    if exp.deterministic_shards:
        raise InputError(
            "deterministic_shards must be 0: the bit-identical mode is not available yet."
        )
    mesh = parallel.make_mesh(devices, **exp.mesh)
    rules = parallel.resolve(exp.rules)
    batch, eval_batch, sizes = layout.batches(exp, mesh, rules)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    with _fitting(batch):
        fns = functions(exp, batch, on_cpu=on_cpu)
        boxed = jax.eval_shape(fns.init)
        abstract = jax.eval_shape(fns.create)
    with parallel.recorded() as used:
        state = layout.state_shardings(abstract, boxed, fns.players, mesh, rules)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def jit(fn: Callable, **kwargs: Any) -> Any:
        return jax.jit(_traced_once(fn, mesh, rules), **kwargs)

    at_train, at_eval = _shardings(batch), _shardings(eval_batch)
    program = Program(
        experiment=exp,
        players=fns.players,
        init=jit(fns.create, out_shardings=state),
        step=jit(
            _packing(fns.step),
            in_shardings=(state, at_train),
            out_shardings=(state, everywhere),
            donate_argnums=0,
        ),
        evaluate=jit(fns.evaluate, in_shardings=(state, at_eval, None), out_shardings=everywhere),
        predict=jit(fns.predict, in_shardings=(state, at_eval, None), out_shardings=everywhere),
        abstract=jax.tree.map(lambda x, s: x.update(sharding=s), abstract, state),
        batch=batch,
        eval_batch=eval_batch,
        mesh=mesh,
        rules=rules,
    )
    with parallel.recorded() as also:
        _check(program, sizes)
    _check_axes(mesh, used | also | set(parallel.axes_of(rules["batch"])))
    return program


def _traced_once(fn: Callable, mesh: Mesh, rules: Mapping) -> Callable:
    """`fn` under the mesh and rules; it refuses to be traced for anything but its first shapes."""
    first = []

    def traced(*args):
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
        if first and first[0] != shapes:
            built, called = (_leaves(seen[1]) for seen in (first[0], shapes))
            called = called if called != built else "another state"
            raise InputError(f"the program was built for a batch of {built}, not for {called}.")
        first.append(shapes)
        with parallel.scope(mesh, rules):
            return fn(*args)

    return traced


def _packing(step: Callable) -> Callable:
    def packing(state, batch):
        state, metrics = step(state, batch)
        return state, pack(metrics)

    return packing


def _leaves(batch: Batch) -> str:
    return ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in batch.items())


def _shardings(batch: Batch) -> dict[str, NamedSharding]:
    return {name: leaf.sharding for name, leaf in batch.items()}


def _check(program: Program, sizes: Mapping[str, int]) -> None:
    """Traces every function of the program, so that a misfit shows before the first device work."""
    exp = program.experiment
    with _fitting(program.eval_batch):
        outputs = program.predict.eval_shape(program.abstract, program.eval_batch, 0)
        if hasattr(exp.task, "check"):
            exp.task.check(exp.model, outputs, sizes)
        program.evaluate.eval_shape(program.abstract, program.eval_batch, 0)
    with _fitting(program.batch):
        program.step.eval_shape(program.abstract, program.batch)


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
