"""The one place where experiment, mesh and jit meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl import parallel
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.task import Batch
from jaxdl.train import layout
from jaxdl.train.functions import functions
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
    with _Fitting(batch):
        fns = functions(exp, batch, unroll=on_cpu)
        boxed = jax.eval_shape(fns.init)
        abstract = jax.eval_shape(fns.create)
    state = layout.state_shardings(abstract, boxed, fns.players, mesh, rules)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def jit(fn: Callable, **kwargs: Any) -> Any:
        traces = []

        def traced(*args):
            traces.append(_leaves(args[1]) if args else "")
            if len(traces) > 1:
                raise InputError(f"traced for the batch {traces[0]}, then called with {traces[1]}.")
            with parallel.scope(mesh, rules):
                return fn(*args)

        return jax.jit(traced, **kwargs)

    at_train, at_eval = _shardings(batch), _shardings(eval_batch)
    program = Program(
        experiment=exp,
        players=fns.players,
        init=jit(fns.create, out_shardings=state),
        step=jit(
            fns.step,
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
    _check(program, sizes)
    return program


def _shardings(batch: Batch) -> dict[str, NamedSharding]:
    return {name: leaf.sharding for name, leaf in batch.items()}


def _leaves(batch: Batch) -> str:
    return ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in batch.items())


def _check(program: Program, sizes: Any) -> None:
    """Traces every function of the program, so that a misfit shows before the first device work."""
    exp, index = program.experiment, jax.ShapeDtypeStruct((), np.int32, weak_type=True)
    with _Fitting(program.eval_batch):
        outputs = program.predict.eval_shape(program.abstract, program.eval_batch, index)
        if hasattr(exp.task, "check"):
            exp.task.check(exp.model, outputs, sizes)
        program.evaluate.eval_shape(program.abstract, program.eval_batch, index)
    with _Fitting(program.batch):
        program.step.eval_shape(program.abstract, program.batch)


class _Fitting:
    """Turns what tracing raises into one message that shows the batch."""

    def __init__(self, batch: Batch):
        self.batch = batch

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception) and not isinstance(error, InputError):
            first = str(error).strip().split("\n")[0]
            raise InputError(
                f"model, task and data do not fit: {kind.__name__}: {first} The batch is "
                f"{_leaves(self.batch)}. "
                "(JAXDL_TRACEBACK=1 shows where.)"
            ) from error
        return False
