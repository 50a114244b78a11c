"""Time and memory of single kernels, beside what a user would pick instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from jaxdl.bench.installed import missing
from jaxdl.bench.turns import Outcome, Peer, take_turns

FLOOR = "naive"
JAX = "jaxdl.bench.peers.kernels:run"
MODULES = {"torch": "jaxdl.bench.peers.torch_kernels:run"}


@dataclass(frozen=True)
class Attention:
    """Self-attention of q, k and v [batch, time, heads, size]."""

    op: ClassVar[str] = "attention"
    peers: ClassVar[tuple[str, ...]] = ("xla", "chunked", "torch")

    time: int
    gradient: bool
    """Also in q, k and v."""
    batch: int = 2
    heads: int = 8
    size: int = 64
    causal: bool = True
    dtype: str = "float32"

    def arrays(self) -> list[np.ndarray]:
        """q, k and v."""
        shape = self.batch, self.time, self.heads, self.size
        return [_normal(i, *shape) for i in range(3)]


@dataclass(frozen=True)
class LayerNorm:
    """Normalisation of x [rows, width]."""

    op: ClassVar[str] = "layer_norm"
    peers: ClassVar[tuple[str, ...]] = ("torch",)

    rows: int
    width: int
    gradient: bool
    """Also in x, scale and bias."""
    dtype: str = "float32"

    def arrays(self) -> list[np.ndarray]:
        """x, scale and bias."""
        return [_normal(0, self.rows, self.width), _normal(1, self.width), _normal(2, self.width)]


@dataclass(frozen=True)
class LinearCrossEntropy:
    """Summed cross-entropy of `x @ table.T`; x [rows, width], table [vocab, width]."""

    op: ClassVar[str] = "linear_cross_entropy"
    peers: ClassVar[tuple[str, ...]] = ("chunked", "torch")

    rows: int
    width: int
    vocab: int
    gradient: bool = True
    """Also in x and the table."""
    dtype: str = "float32"

    def arrays(self) -> list[np.ndarray]:
        """x, the table and labels."""
        table = _normal(1, self.vocab, self.width) * np.float32(self.width**-0.5)
        labels = np.random.default_rng(2).integers(self.vocab, size=self.rows)
        return [_normal(0, self.rows, self.width), table, labels.astype(np.int32)]


Workload = Attention | LayerNorm | LinearCrossEntropy
WORKLOADS: dict[str, Workload] = {
    "attention-1k": Attention(1024, gradient=True),
    "attention-2k": Attention(2048, gradient=True),
    "attention-1k-forward": Attention(1024, gradient=False),
    "attention-2k-forward": Attention(2048, gradient=False),
    "layer-norm": LayerNorm(4096, 1024, gradient=True),
    "linear-cross-entropy": LinearCrossEntropy(1024, 256, vocab=50_304),
    "linear-cross-entropy-128k": LinearCrossEntropy(1024, 256, vocab=131_072),
    "linear-cross-entropy-256k": LinearCrossEntropy(512, 256, vocab=262_144),
}


def of(op: str, **shape: Any) -> Workload:
    """The workload that `{"op": work.op, **asdict(work)}` describes."""
    kinds = {kind.op: kind for kind in (Attention, LayerNorm, LinearCrossEntropy)}
    return kinds[op](**shape)


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def measure_kernel(
    name: str,
    work: Workload,
    *,
    peers: bool = False,
    rounds: int = 5,
    seconds: float = 2.0,
    one_core: bool = False,
) -> Iterator[dict[str, Any]]:
    """One record for jaxdl's kernel, one for its plain form, and with `peers` those of others.

    `ms` is a median over rounds, `ratio` the median of the ratios to the plain form within a round;
    `temp_mb` is what XLA sets aside beyond arguments and results.
    """
    shape = {"op": work.op, **asdict(work)}
    chosen = ["jaxdl", FLOOR, *(work.peers if peers else ())]
    absent = {peer: told for peer in chosen if (told := missing(peer))}
    outcomes = take_turns(
        [
            Peer(peer, MODULES.get(peer, JAX), {"peer": peer, **shape})
            for peer in chosen
            if peer not in absent
        ],
        rounds=rounds,
        seconds=seconds,
        one_core=one_core,
    )
    for peer in chosen:
        record = {"bench": "kernels", "workload": name, "peer": peer}
        if peer in absent:
            yield record | {"missing": absent[peer]}
        elif outcomes[peer].error:
            yield record | {"error": outcomes[peer].error}
        else:
            yield record | _measured(outcomes[peer], outcomes[FLOOR]) | {"shape": shape}


def _measured(outcome: Outcome, floor: Outcome) -> dict[str, Any]:
    found = {
        "ms": 1e3 * outcome.median("wall"),
        "cpu_ms": 1e3 * outcome.median("cpu"),
        "temp_mb": outcome.info.get("temp_mb"),
        "peak_rss_mb": outcome.turns[-1].rss,
        "compile_s": outcome.info["compile_s"],
        "device": outcome.info["device"],
        "rounds": len(outcome.turns),
    }
    if floor.error:
        return found
    return found | {"ratio": outcome.ratio(floor, "wall"), "cpu_ratio": outcome.ratio(floor, "cpu")}
