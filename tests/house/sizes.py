"""How long files and functions are; fails on a file over 400 lines outside kernels/.

Run:    python tests/house/sizes.py
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("jaxdl", "kernels", "experiments", "tests", "tpu")
FILE_LINES, FUNCTION_LINES = 400, 50


def functions(source: str) -> Iterator[tuple[str, int, int]]:
    """Name, first line and length of every function, docstring included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def summary(what: str, lengths: list[int]) -> str:
    """Count, median, 90th percentile and maximum of `lengths`."""
    ordered = sorted(lengths)
    median, p90 = statistics.median(ordered), ordered[int(0.9 * (len(ordered) - 1))]
    return f"{len(ordered)} {what}: median {median:g}, p90 {p90}, longest {ordered[-1]} lines"


def main() -> int:
    """Prints the report; 1 if a file is too long."""
    files, lengths, long_files, long_functions = [], [], [], []
    for path in sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")):
        source, name = path.read_text(), path.relative_to(ROOT).as_posix()
        files.append(len(source.splitlines()))
        if files[-1] > FILE_LINES and not name.startswith("kernels/"):
            long_files.append(f"{name}: {files[-1]} lines, more than {FILE_LINES}; split it")
        for function, line, length in functions(source):
            lengths.append(length)
            if length > FUNCTION_LINES:
                long_functions.append(f"{name}:{line}: {function} has {length} lines")
    print(summary("files", files), summary("functions", lengths), *long_functions, sep="\n")
    print(*long_files, sep="\n", end="\n" * bool(long_files), file=sys.stderr)
    return bool(long_files)


if __name__ == "__main__":
    sys.exit(main())
