"""What a framework's training loop costs beyond the computation itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxdl.bench.installed import missing
from jaxdl.bench.turns import Outcome, Peer, take_turns

TARGET_US = 20.0
"""What `loop_overhead_us` should stay below."""
OURS = "jaxdl.bench.peers.loop"
BARE = "bare step"
PARTS = {
    BARE: Peer(BARE, f"{OURS}:bare"),
    "jaxdl step": Peer("jaxdl step", f"{OURS}:step"),
    "jaxdl loop": Peer("jaxdl loop", f"{OURS}:ours"),
    "jaxdl loop + log": Peer("jaxdl loop + log", f"{OURS}:ours", {"hooks": ["log"]}),
    "jaxdl run": Peer("jaxdl run", f"{OURS}:ours", {"hooks": ["log", "save"]}),
    "jaxdl loop + feeding": Peer("jaxdl loop + feeding", f"{OURS}:ours", {"feeding": True}),
}
"""From the floor upwards: a hand-written step; jaxdl's step; its loop in a run directory; with
`Log(every=50)`; and with `Save(every=500)`, which is a whole run on a resident batch."""
OTHERS = {
    "keras": Peer("keras", "jaxdl.bench.peers.keras:loop"),
    "torch": Peer("torch", "jaxdl.bench.peers.torch:loop"),
    "lightning": Peer("lightning", "jaxdl.bench.peers.lightning:loop"),
}


def measure_loop(
    *, peers: bool = False, rounds: int = 5, steps: int = 5000, one_core: bool = False
) -> Iterator[dict[str, Any]]:
    """One record per part and per framework, then one with the figures of merit.

    `cpu_us` is CPU time of all threads per step over `steps` steps, median over rounds, without
    `start_ms`, what starting and ending takes however few steps there are;
    `overhead_us` is the median over rounds of what that is beyond the bare step of the same round.
    `loop_overhead_us` is that of a whole run on a resident batch, `feeding_us` what loading and
    prefetching batches adds to the loop.
    """
    chosen = PARTS | (OTHERS if peers else {})
    absent = {name: told for name in chosen if (told := missing(name))}
    outcomes = take_turns(
        [peer for name, peer in chosen.items() if name not in absent],
        rounds=rounds,
        steps=steps,
        one_core=one_core,
        marginal=True,
    )
    for name in chosen:
        record = {"bench": "loop", "peer": name}
        if name in absent:
            yield record | {"missing": absent[name]}
        elif outcomes[name].error:
            yield record | {"error": outcomes[name].error}
        else:
            measured = _measured(outcomes[name], outcomes[BARE])
            yield record | measured | {"steps": steps, "one_core": one_core}
    if not any(outcomes[name].error for name in PARTS):
        yield {"bench": "loop", "peer": "jaxdl", **_merit(outcomes)}


def _measured(outcome: Outcome, bare: Outcome) -> dict[str, Any]:
    found = {
        "cpu_us": 1e6 * outcome.median("cpu"),
        "wall_us": 1e6 * outcome.median("wall"),
        "start_ms": 1e3 * outcome.median("start"),
        "compile_s": outcome.info["compile_s"],
        "peak_rss_mb": outcome.turns[-1].rss,
        "rounds": len(outcome.turns),
    }
    return found if bare.error else found | {"overhead_us": 1e6 * outcome.excess(bare, "cpu")}


def _merit(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    overhead = outcomes["jaxdl run"].excess(outcomes[BARE], "cpu")
    feeding = outcomes["jaxdl loop + feeding"].excess(outcomes["jaxdl loop"], "cpu")
    return {
        "loop_overhead_us": 1e6 * overhead,
        "target_us": TARGET_US,
        "feeding_us": 1e6 * feeding,
    }
