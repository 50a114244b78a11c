"""PyTorch's own functions of the kernels' workloads, eager, on CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jaxdl.bench import kernels
from jaxdl.bench.kernels import Attention, LayerNorm, LinearCrossEntropy

torch.set_num_threads(len(os.sched_getaffinity(0)))


def run(peer: str, op: str, **shape: Any) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Runs the workload n times."""
    del peer
    work = kernels.of(op, **shape)
    arrays = [torch.from_numpy(x) for x in work.arrays()]
    if isinstance(work, Attention):
        arrays = [x.transpose(1, 2).contiguous() for x in arrays]
    kind = getattr(torch, work.dtype)
    arrays = [x.to(kind).requires_grad_() if x.is_floating_point() else x.long() for x in arrays]
    wanted = [x for x in arrays if x.requires_grad]
    y = FUNCTIONS[op](work, *arrays)
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)

    def go(n: int) -> None:
        for _ in range(n):
            if work.gradient:
                torch.autograd.grad((FUNCTIONS[op](work, *arrays) * weights).sum(), wanted)
            else:
                with torch.no_grad():
                    FUNCTIONS[op](work, *arrays)

    return go, {"device": "cpu"}


def _attention(work: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=work.causal)


def _layer_norm(work: LayerNorm, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (work.width,), scale, bias)


def _entropy(work: LinearCrossEntropy, x: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(x @ table.T, labels, reduction="sum")


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "attention": _attention,
    "layer_norm": _layer_norm,
    "linear_cross_entropy": _entropy,
}
