"""The tables of kernels/README.md, from the measurements beside it.

Run:    jaxdl bench kernels --peers --json > kernels/results/NAME.jsonl
        python -m jaxdl.bench.tables
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START, END = "<!-- results -->", "<!-- end of results -->"
SHOWN = ("jax", "torch", "tokamax")
COLUMNS = {"ms": "ms", "ratio": "ratio", "CPU ratio": "cpu_ratio", "temp MB": "temp_mb"}


def tables(folder: Path) -> str:
    """Markdown of every file of records in `folder`, newest hardware last by name."""
    files = sorted(folder.glob("*.jsonl"))
    return "\n".join(_table([json.loads(line) for line in f.open()]) for f in files)


def rewritten(readme: str, folder: Path) -> str:
    """`readme`, with what stands between its two marks made anew."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{tables(folder)}\n{END}{after}"


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    first = records[0]
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items() if k in SHOWN)
    where = f"{first['cpu']}, {first['cores']} cores"
    device = next((r["device"] for r in records if "device" in r), "cpu")
    if device != "cpu":
        where = f"{device} ({where})"
    lines = [
        f"Run on: {where}; {first['date'][:10]}; {versions}; load at the start {first['load']}.",
        "",
        f"| workload | by | {' | '.join(COLUMNS)} |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for record in records:
        cells = [_cell(record.get(key)) for key in COLUMNS.values()]
        if told := record.get("error") or record.get("missing"):
            cells[0] = told
        lines.append(f"| {record['workload']} | {record['peer']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def main() -> None:
    """Rewrites the README beside `results` in the folder given, `kernels` by default."""
    folder = Path(sys.argv[1] if sys.argv[1:] else "kernels")
    readme = folder / "README.md"
    readme.write_text(rewritten(readme.read_text(), folder / "results"))


if __name__ == "__main__":
    main()
