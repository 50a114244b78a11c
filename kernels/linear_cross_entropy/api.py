"""The loss that callers use: it checks its input and owns the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxdl.core.checks import check_shapes
from jaxdl.core.errors import InputError
from jaxdl.kernels.dispatch import dispatch
from jaxdl.kernels.linear_cross_entropy import chunked, reference
from jaxdl.kernels.linear_cross_entropy.reference import Loss

Kinds = tuple[str, ...]
Spread = Callable[[Callable, Kinds, Kinds], Callable]
"""Makes of a function of arrays of the kinds `features`, `table`, `bias` and `tokens`, with results
of these kinds or a `total`, one that runs on shards: it is called as `fn(*arrays, over=...)`, with
the mesh axes by which the vocabulary is divided, and adds results up over shards itself."""


class Scores(NamedTuple):
    """What the tokens' logits say of their labels."""

    total: Array
    """The weighted sum of the losses, in nats."""
    hits: Array
    """How many tokens of a weight above 0 have their label on top, int32; no gradient."""


@dataclass(frozen=True)
class How:
    """What is not an array."""

    loss: Loss
    rows: int | None
    impl: str | None
    spread: Spread | None


def linear_cross_entropy(
    x: Array,
    w: Array,
    labels: Array,
    *,
    weights: Array | None = None,
    bias: Array | None = None,
    tied: bool = False,
    vocab: int | None = None,
    z: float = 0.0,
    smoothing: float = 0.0,
    cap: float = 0.0,
    rows: int | None = None,
    impl: str | None = None,
    spread: Spread | None = None,
) -> Scores:
    """The summed cross-entropy of the logits `x w + bias`, of which few exist at a time.

    It is that of `losses.cross_entropy`; logits and sums are of float32, and so are the gradients
    of w and bias until they are rounded. Reverse-mode gradients only, made on the way forward.

    Args:
        x: features.
        w: the layer's weights [D, V]; with `tied`, an embedding [V, D].
        labels: integers below `vocab`.
        weights: of the tokens; where one is 0, value and gradient are 0. None is 1.
        bias: is added to the logits.
        tied: which way round w is.
        vocab: tokens that there are, where w is padded to more; None is all.
        z: times logZ^2 is added (PaLM, arXiv:2204.02311, section 5).
        smoothing: s of a target of 1 - s on the label plus s / V everywhere.
        cap: c bounds the logits as `c tanh(y / c)` (Gemma 2, arXiv:2408.00118); 0 does not.
        rows: of a chunk, at most; None is about D.
        impl: `chunked`, or `reference` with all logits at once; None is `chunked`.
        spread: runs it on several devices, in both directions.

    Shapes: x [..., D], labels and weights [...], bias [V].

    Raises:
        InputError: shapes disagree, or labels are no integers.
    """
    vocab = _checked(x, w, labels, weights, bias, tied, vocab)
    if weights is None:
        weights = jnp.ones(labels.shape, reference.wide(x))
    loss = Loss(tied, vocab, float(z), float(smoothing), float(cap))
    return Scores(*_scores(x, w, bias, labels, weights, How(loss, rows, impl, spread)))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _scores(x, w, bias, labels, weights, how: How) -> tuple[Array, Array]:
    return _run("forward", ("total", "total"), how, (x, w, bias, labels, weights))


def _forward(x, w, bias, labels, weights, how):
    results = ("total", "total", "features", "table", "tokens", *("bias",) * (bias is not None))
    total, hits, dx, dw, dweights, *dbias = _run(
        "gradients", results, how, (x, w, bias, labels, weights)
    )
    like = [None if a is None else jnp.zeros(0, a.dtype) for a in (x, w, bias, weights)]
    return (total, hits), ((dx, dw, *(dbias or [None]), dweights), like, labels.shape)


def _backward(how, residuals, cotangents):
    gradients, like, shape = residuals
    by = [
        None if g is None else (cotangents[0] * g).astype(a.dtype)
        for g, a in zip(gradients, like, strict=True)
    ]
    return *by[:3], np.zeros(shape, jax.dtypes.float0), by[3]


_scores.defvjp(_forward, _backward)


def _run(name: str, results: Kinds, how: How, arrays: tuple) -> tuple[Array, ...]:
    """The function `name` of the implementation, on each shard."""
    kinds = ("features", "table", "bias", "tokens", "tokens")
    given = [(a, kind) for a, kind in zip(arrays, kinds, strict=True) if a is not None]

    def local(*args, over: tuple[str, ...] = ()):
        x, w, *bias, labels, weights = args
        lead, x = labels.shape, x.reshape(-1, x.shape[-1])
        args = x, w, *(bias or [None]), labels.reshape(-1), weights.reshape(-1)
        found = _by_platform(name, how, over, args)
        if name == "forward":
            return found
        totals, (dx, dw, dbias, dweights) = found
        found = *totals, dx.reshape(*lead, -1), dw, dweights.reshape(lead)
        return found if dbias is None else (*found, dbias)

    run = how.spread(local, tuple(kind for _, kind in given), results) if how.spread else local
    return run(*(a for a, _ in given))


def _by_platform(name: str, how: How, over: tuple[str, ...], args: tuple) -> Any:
    x, all_at_once = args[0], partial(getattr(reference, name), loss=how.loss)
    made = partial(getattr(chunked, name), loss=how.loss, axes=over, rows=how.rows)
    tiled = partial(made, tile=chunked.CPU_TILE)
    by_chunks = partial(jax.lax.platform_dependent, cpu=tiled, default=made)
    return dispatch(
        "linear_cross_entropy",
        f"{x.dtype.name}{list(x.shape)} x {how.loss.vocab}",
        {"chunked": by_chunks, "reference": all_at_once},
        {"reference": "its vocabulary is divided; by chunks it can be" if over else None},
        how.impl or "chunked",
        *args,
    )


def _checked(x, w, labels, weights, bias, tied, vocab) -> int:
    """The number of tokens."""
    lead = " ".join(f"B{i}" for i in range(labels.ndim))
    arrays = {"x": x, "w": w, "labels": labels, "weights": weights, "bias": bias}
    whole = f"{lead} D".strip()
    table = "V D" if tied else "D V"
    sizes = check_shapes(arrays, x=whole, w=table, labels=lead, weights=lead, bias="V")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"labels are {labels.dtype}; they must be integers below the vocabulary.")
    if vocab is not None and not 0 < vocab <= sizes["V"]:
        raise InputError(f"vocab={vocab}, but w has {sizes['V']} tokens.")
    return vocab or sizes["V"]
