"""Which rows of the checklist the tests prove: a pytest plugin and a small command.

`@pytest.mark.row("C-012")` ties a test to a row; each session writes build/rows.json:
`{"C-012": {"outcome": "pass|fail|skip", "tests": ["tests/..."]}}`.

Run:    python tests/rows.py show     # the committed table, tests/rows.json
        python tests/rows.py merge    # the last session's outcomes into that table
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAST = ROOT / "build" / "rows.json"
COMMITTED = ROOT / "tests" / "rows.json"
WORST = ("fail", "pass", "skip")  # a row takes the first of these that any of its tests has

Rows = dict[str, dict]


class Recorder:
    """Collects the outcome of every test that carries rows, on the process that reports."""

    def __init__(self, path: Path = LAST):
        self.path = path
        self.outcomes: dict[str, str] = {}
        self.tests: dict[str, set[str]] = {}

    def pytest_collection_modifyitems(self, items):
        # user_properties travel with the reports from pytest-xdist's workers; marks do not.
        for item in items:
            for mark in item.iter_markers("row"):
                item.user_properties += [("row", row) for row in mark.args]

    def pytest_runtest_logreport(self, report):
        rows = [value for name, value in report.user_properties if name == "row"]
        for row in rows:
            self.tests.setdefault(row, set()).add(report.nodeid)
        if rows and (report.when == "call" or not report.passed):
            outcome = {"passed": "pass", "failed": "fail", "skipped": "skip"}[report.outcome]
            known = self.outcomes.get(report.nodeid, outcome)
            self.outcomes[report.nodeid] = min(known, outcome, key=WORST.index)

    def pytest_sessionfinish(self, session):
        if not hasattr(session.config, "workerinput"):
            write(self.path, self.rows())

    def rows(self) -> Rows:
        """Outcome and tests by row; it passes when none of its tests failed and one passed."""
        return {
            row: {
                "outcome": min((self.outcomes.get(t, "fail") for t in tests), key=WORST.index),
                "tests": sorted(tests),
            }
            for row, tests in self.tests.items()
        }


def merge(committed: Rows, last: Rows) -> Rows:
    """`committed` with the rows that ran in `last`; a skipped row only fills a gap."""
    ran = {row: entry for row, entry in last.items() if entry["outcome"] != "skip"}
    return last | committed | ran


def table(rows: Rows) -> str:
    """One line per row, and the sums."""
    lines = [f"{row:<8}{e['outcome']:<6}{len(e['tests']):>4}" for row, e in sorted(rows.items())]
    outcomes = [entry["outcome"] for entry in rows.values()]
    sums = ", ".join(f"{outcomes.count(name)} {name}" for name in ("pass", "fail", "skip"))
    return "\n".join([f"{'row':<8}{'is':<6}{'tests'}", *lines, sums])


def read(path: Path) -> Rows:
    """The rows in `path`; none where there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, rows: Rows) -> None:
    """`rows` as stable JSON, for small diffs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


def main(argv: list[str]) -> int:
    match argv:
        case ["show"]:
            print(table(read(COMMITTED)))
        case ["merge"]:
            if not LAST.exists():
                print(f"{LAST.relative_to(ROOT)} is missing; run the tests first.", file=sys.stderr)
                return 2
            write(COMMITTED, merge(read(COMMITTED), read(LAST)))
        case _:
            print("usage: python tests/rows.py show|merge", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
