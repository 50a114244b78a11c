"""Time of one training step, beside a step written by hand and other frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from jaxdl.bench.installed import missing
from jaxdl.bench.turns import Outcome, Peer, take_turns
from jaxdl.bench.workloads import Workload

FLOOR = "linen"
OWN = ("jaxdl.bench.peers.ours:step", "jaxdl.bench.peers.linen:step")
OTHERS = {"keras": "jaxdl.bench.peers.keras:step", "torch": "jaxdl.bench.peers.torch:step"}


def measure_step(
    name: str,
    work: Workload,
    *,
    peers: bool = False,
    rounds: int = 5,
    seconds: float = 2.0,
    one_core: bool = False,
) -> Iterator[dict[str, Any]]:
    """One record per peer: jaxdl, the floor `linen`, and with `peers` the frameworks there are.

    `step_ms` and `cpu_ms` are medians over rounds, `ratio` and `cpu_ratio` medians of the ratios to
    the floor within a round. `flops` are the model's, forward and backward, counted in the floor.
    A model with another number of parameters than the floor's, or on another device, has a `note`
    of it.
    A framework that is not installed, or that failed, has a record that says so.
    """
    shape = {"family": work.family, **asdict(work)}
    ours, floor = OWN
    chosen = {"jaxdl": ours, FLOOR: floor} | (OTHERS if peers else {})
    absent = {peer: told for peer in chosen if (told := missing(peer))}
    outcomes = take_turns(
        [Peer(peer, function, shape) for peer, function in chosen.items() if peer not in absent],
        rounds=rounds,
        seconds=seconds,
        one_core=one_core,
    )
    base = outcomes[FLOOR]
    for peer in chosen:
        record = {"bench": "step", "workload": name, "peer": peer}
        if peer in absent:
            yield record | {"missing": absent[peer]}
        elif outcomes[peer].error:
            yield record | {"error": outcomes[peer].error}
        else:
            yield record | _measured(outcomes[peer], base, work) | {"one_core": one_core}


def _measured(outcome: Outcome, base: Outcome, work: Workload) -> dict[str, Any]:
    wall, cpu = outcome.median("wall"), outcome.median("cpu")
    found = {
        "step_ms": 1e3 * wall,
        "cpu_ms": 1e3 * cpu,
        "units_per_s": work.units / wall,
        "unit": work.unit,
        "compile_s": outcome.info["compile_s"],
        "peak_rss_mb": outcome.turns[-1].rss,
        "loss": outcome.turns[-1].loss,
        "params": outcome.info["params"],
        "device": outcome.info["device"],
        "rounds": len(outcome.turns),
    }
    return found if base.error else found | _compared(outcome, base)


def _compared(outcome: Outcome, base: Outcome) -> Mapping[str, Any]:
    """What needs the floor: ratios, FLOPs, and whether the model is as large."""
    count = base.info["flops"]
    found = {
        "ratio": outcome.ratio(base, "wall"),
        "cpu_ratio": outcome.ratio(base, "cpu"),
        "flops": count,
        "gflops_per_s": count / outcome.median("wall") / 1e9,
        "gflops_per_cpu_s": count / outcome.median("cpu") / 1e9,
    }
    told, more = [], outcome.info["params"] - base.info["params"]
    if more:
        told.append(f"{abs(more):,} parameters {'more' if more > 0 else 'fewer'} than {FLOOR}")
    if outcome.info["device"] != base.info["device"]:
        told.append(f"on {outcome.info['device']}, {FLOOR} on {base.info['device']}")
    return found | {"note": "; ".join(told)} if told else found
