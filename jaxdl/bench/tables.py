"""The tables of kernels/README.md, made of the result files in kernels/results.

Run:    python -m jaxdl.bench.tables            # writes them between the README's markers
        jaxdl bench kernels --peers --json > kernels/results/cpu.jsonl
        python -m jaxdl.bench.attention >> kernels/results/cpu.jsonl
        python -m jaxdl.bench.kernels_gpu kernels/results/gpu.jsonl
        python -m jaxdl.kernels.spills --write kernels/results/gpu_aot.jsonl
        python -m jaxdl.kernels.flash_attention.cycles --write kernels/results/tpu.jsonl
        python -m jaxdl.kernels.layer_norm.bench --write kernels/results/tpu.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jaxdl import kernels
from jaxdl.core.errors import InputError

HERE = Path(kernels.__file__).parent
START, END = "<!-- results -->", "<!-- end of results -->"
Record = Mapping[str, Any]
PRODUCTS = {"wgmma": "wgmma", "mma": "mma_sync"}
"""Of tensor cores: what tables call them, and records."""


def written(readme: str, results: Path) -> str:
    """`readme` with the tables of all files in `results` between its markers.

    Raises:
        InputError: the markers are missing.
    """
    before, found, rest = readme.partition(START)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise InputError(f"the README has no lines {START} and {END} for the tables.")
    return f"{before}{START}\n\n{tables(results)}\n\n{END}{after}"


def tables(results: Path) -> str:
    """Markdown of the tables, and what was not measured."""
    parts = [
        part
        for name, table in (("cpu", _cpu), ("gpu", _gpu), ("gpu_aot", _gpu_aot), ("tpu", _tpu))
        for part in table(_read(results / f"{name}.jsonl"))
    ]
    return "\n\n".join(parts)


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _cpu(records: Sequence[Record]) -> Iterator[str]:
    """Time and memory by workload and peer, then those of whole models."""
    times = [record for record in records if record["bench"] == "kernels"]
    if not times:
        yield "**Not measured: any time on a CPU.**"
        return
    time, unit, load = _clock(times, "ms")
    turns = min(record["rounds"] for record in times if time in record)
    yield (
        f"On a CPU ({_where(times[0])}; {load}): {unit}, medians of {turns} turns or more, and "
        "megabytes of temporary memory."
    )
    peers = list(dict.fromkeys(record["peer"] for record in times))
    rows = {name: {} for name in dict.fromkeys(record["workload"] for record in times)}
    for record in times:
        rows[record["workload"]][record["peer"]] = _cell(record, time)
    yield _table(("", *peers), ([n, *(row.get(p, "") for p in peers)] for n, row in rows.items()))
    yield from _models([record for record in records if record["bench"] == "models"])


def _models(records: Sequence[Record]) -> Iterator[str]:
    """Time and memory of models through the kernel and through its reference."""
    if not records:
        yield "**Not measured: whole models on a CPU.**"
        return
    time, unit, load = _clock(records, "wall_ms")
    yield (
        "Forward and backward of two layers of width 384 and 6 heads, attention by the kernel and "
        f"by its reference ({load}): {unit}, and megabytes of temporary memory."
    )
    rows = []
    for record in records:
        ours, plain = record["kernel"], record["reference"]
        ratios = (f"{ours[name] / plain[name]:.2f}" for name in (time, "temp_mb"))
        rows.append((record["model"], *(_cell(x, time) for x in (ours, plain)), *ratios))
    yield _table(("", "kernel", "reference", "time", "memory"), rows)


def _clock(records: Sequence[Record], wall: str) -> tuple[str, str, str]:
    """Name and unit of the time to show, and the load of the machine.

    Wall time tells something on idle cores alone; a measurement itself keeps every core busy.
    """
    loads, cores = [record["load"] for record in records], records[0]["cores"]
    load = f"load average {min(loads):.1f} to {max(loads):.1f} on {cores} cores"
    if max(loads) <= cores + 0.5:
        return wall, "milliseconds of wall time", load
    return "cpu_ms", "milliseconds of processor time, since the cores were not idle", load


def _cell(record: Record, time: str) -> str:
    if time not in record:
        return "failed" if "error" in record else "not installed"
    memory = record.get("temp_mb")
    return f"{record[time]:,.0f}" + (f", {memory:,.0f} MB" if memory is not None else "")


def _gpu(records: Sequence[Record]) -> Iterator[str]:
    """Milliseconds by workload and peer, after what parity found."""
    kinds = {
        kind: [r for r in records if r["kind"] == kind]
        for kind in ("machine", "parity", "ceilings", "times", "left out")
    }
    if not kinds["times"]:
        yield (
            "**Not measured: parity and every time on a GPU, since none was at hand;** "
            "`python -m jaxdl.bench.kernels_gpu kernels/results/gpu.jsonl` does it on one."
        )
        return
    (machine,), fine = kinds["machine"], [record["fine"] for record in kinds["parity"]]
    limits = kinds["ceilings"][0]
    yield (
        f"On a GPU ({machine['device']}; {_where(machine)}): {sum(fine)} of {len(fine)} cases of "
        f"parity; a bf16 product of 8192^3 reaches {limits['matmul_tflops']:.0f} TFLOP/s, a copy "
        f"{limits['copy_gb_per_s']:.0f} GB/s. Milliseconds, medians of turns, "
        "and the fraction of the product's rate (a norm: of the copy's) that is reached."
    )
    peers = list(dict.fromkeys(peer for record in kinds["times"] for peer in record["ms"]))
    yield _table(
        ("", *peers),
        (
            [_shape(r), *(_timed(r, peer) if peer in r["ms"] else "" for peer in peers)]
            for r in kinds["times"]
        ),
    )
    if kinds["left out"]:
        yield "**Not measured, for time:** " + "; ".join(map(_shape, kinds["left out"])) + "."


def _timed(record: Record, peer: str) -> str:
    return f"{record['ms'][peer]:.3f} ({record['fraction'][peer]:.0%})"


def _gpu_aot(records: Sequence[Record]) -> Iterator[str]:
    """What kernels became, by size: the worst of all sets of features."""
    if not records:
        yield "**Not compiled: the GPU's kernels for an absent one.**"
        return
    versions = ", ".join(f"{n} {v}" for n, v in records[0]["versions"].items())
    target = records[0]["hardware"].removeprefix("none: compiled for an absent ")
    yield (
        f"For a GPU that was absent ({target}; {versions}, {records[0]['date']}): the most of a "
        "kernel's sets of features, of which there are as many as stand behind its dtype. Bytes "
        "that a thread spills, its registers, KiB of shared memory, and the kind of tensor cores' "
        "products: `wgmma` is the Hopper's, `mma` the one before."
    )
    for op, heads in (("attention", "head"), ("norm", "row")):
        found: dict[tuple[str, str], dict[int, list[Record]]] = {}
        for record in records:
            if record["op"] == op:
                row = found.setdefault((record["direction"], record["dtype"]), {})
                row.setdefault(record["size"], []).append(record)
        sizes = sorted({size for row in found.values() for size in row})
        rows = (
            [op, name, f"{dtype} ({max(map(len, row.values()))})"]
            + [_became(row[size]) if size in row else "" for size in sizes]
            for (name, dtype), row in found.items()
        )
        if found:
            yield _table(("", "pass", "dtype", *(f"{heads} of {n:,}" for n in sizes)), rows)


def _became(records: Sequence[Record]) -> str:
    """The worst of some kernels."""
    if any(record["spills"] is None for record in records):
        return "shared memory does not suffice"
    spills, registers, shared = (
        max(r[n] for r in records) for n in ("spills", "registers", "shared")
    )
    kinds = [name for name, key in PRODUCTS.items() if any(record[key] for record in records)]
    told = f"**{spills:,} B spilled**" if spills else "0 B"
    return ", ".join([told, f"{registers}", f"{shared / 2**10:.0f} KiB", *kinds])


def _tpu(records: Sequence[Record]) -> Iterator[str]:
    """Static cycles, by operation."""
    for op, told in (("flash_attention", _splash), ("layer_norm", _norms)):
        yield from told([record for record in records if record["op"] == op])
    yield "**Not measured: any time on a TPU.**"


def _splash(records: Sequence[Record]) -> Iterator[str]:
    """Those of ours and the least of splash attention's, by case and target."""
    if records:
        versions = ", ".join(f"{n} {v}" for n, v in records[0]["versions"].items())
        yield (
            f"For TPUs that were absent ({versions}, {records[0]['date']}): cycles of the kernels, "
            "estimated by the compiler. Splash attention at the best of its blocks that were "
            "tried, its tables replaced by the same schedule computed, since the estimate takes "
            "what is in tables to be zero."
        )
    found: dict[tuple, dict[str, list[int]]] = {}
    for record in records:
        key = record["target"], f"{record['case']}, {record['direction']}"
        if record["cycles"] and record["impl"] in ("ours", "splash, scheduled"):
            found.setdefault(key, {}).setdefault(record["impl"], []).append(record["cycles"])
    rows = []
    for (target, case), by_impl in sorted(found.items()):
        ours, splash = (min(by_impl.get(n, [0])) for n in ("ours", "splash, scheduled"))
        ratio = f"{ours / splash:.2f}" if ours and splash else ""
        cells = [f"{count:,}" if count else "not measured" for count in (ours, splash)]
        rows.append([target, case, *cells, ratio])
    if rows:
        yield _table(("target", "case", "ours", "splash", "ratio"), rows)


def _norms(records: Sequence[Record]) -> Iterator[str]:
    """Those of ours over those of XLA's own, by target and pass."""
    if not records:
        return
    programs = {(r["target"], r["direction"]): {} for r in records}
    for r in records:
        programs[r["target"], r["direction"]].setdefault(r["case"], {})[r["impl"]] = r["cycles"]
    programs = {place: both for place, cases in programs.items() if (both := _compared(cases))}
    ratios = {
        place: [each["ours"] / each["xla"] for each in cases.values()]
        for place, cases in programs.items()
    }
    behind = sum(ratio > 1 for each in ratios.values() for ratio in each)
    yield (
        f"Layer and RMS normalisation, of which all cycles are in `results/tpu.jsonl`: ours over "
        f"XLA's own fusions, {sum(map(len, ratios.values()))} programs. In the {behind} in which "
        "ours takes more, XLA's runs."
    )
    yield _table(
        ("target", "pass", "least", "median", "most", "where"),
        (
            [*place, *(f"{of(each):.2f}" for of in (min, median, max)), _most(programs[place])]
            for place, each in sorted(ratios.items())
        ),
    )


def _compared(cases: Mapping[str, Mapping[str, int | None]]) -> dict[str, dict[str, int]]:
    """Those of which both programs have cycles."""
    told = {case: {n: x for n, x in each.items() if x} for case, each in cases.items()}
    return {case: each for case, each in told.items() if len(each) == 2}


def _most(cases: Mapping[str, Mapping[str, int]]) -> str:
    return max(cases, key=lambda case: cases[case]["ours"] / cases[case]["xla"])


def _shape(record: Record) -> str:
    sizes = ("time", "size", "rows", "width", "vocab")
    told = [f"{name} {record[name]}" for name in sizes if name in record]
    told += ["causal"] * bool(record.get("causal"))
    told += [record["pass"]] if "pass" in record else ["backward"] * bool(record.get("gradient"))
    return " ".join([record["op"], *told])


def _where(record: Record) -> str:
    shown = ("jax", "jaxlib", "torch", "tokamax")
    versions = [f"{n} {v}" for n, v in record["versions"].items() if n in shown]
    return ", ".join([record["cpu"], record["date"][:10], *versions])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Writes the README; with --check says by the exit code whether it was as it should be."""
    readme = HERE / "README.md"
    old = readme.read_text()
    new = written(old, HERE / "results")
    if "--check" not in sys.argv:
        readme.write_text(new)
        return 0
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
