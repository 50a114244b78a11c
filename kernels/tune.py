"""Finds sizes of blocks for a kind of device, and writes them into the table of an operation.

An operation's `tune.py` tells its cases: the kernels, and the blocks that could be taken. Those
that do not fit the fast memory are pruned, first by its size and then by the compiler, as are those
that spill registers. Of the others the best is, for a TPU that is absent, the one of the fewest
cycles as its compiler estimates them; for a GPU that is absent the one that reads the least memory;
for a device that is present the one of the least time. What was once found is kept, by all that it
depends on.

Run:    python -m jaxdl.kernels.tune layer_norm --target v6e:2x2 [--only rms,8192] [--json]
        python -m jaxdl.kernels.tune flash_attention --target here     # times on the default device
Needs:  for TPUs that are absent the extra `aot`, for GPUs `aot-gpu`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxdl.core.errors import InputError, suggest
from jaxdl.core.packages import versions_of
from jaxdl.kernels import measure
from jaxdl.kernels.blocks import Row, Table
from jaxdl.kernels.measure import Blocks, Case, Verdict

HERE = Path(__file__).parent
PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "nvidia-cuda-nvcc")
"""What compiles."""
FEWEST = 4
"""Candidates of which one is the best."""


@dataclass(frozen=True)
class Found:
    """What was said of each candidate of a case, and of no blocks."""

    case: Case
    verdicts: Sequence[tuple[Blocks, Verdict]]

    @property
    def best(self) -> tuple[Blocks, Verdict] | None:
        """The first candidate of the least value."""
        fine = [pair for pair in self.verdicts if pair[0] and pair[1].value is not None]
        return min(fine, key=lambda pair: pair[1].value, default=None)


def tune(
    cases: Sequence[Case], target: measure.Target, cache: Cache, code: str = ""
) -> Iterator[tuple[Case, Blocks, Verdict] | Found]:
    """Each candidate's verdict, and after those of a case what was found.

    What `cache` knows is not measured again, if it is of the same `code` (see `source`).

    Raises:
        InputError: the compiler for `target` is not installed.
    """
    with target.measuring() as measured:
        for case in cases:
            assert len(case.candidates) >= FEWEST, f"{case.kernel}: too few candidates"
            keys = {
                _text(one): _key(case, one, target, code)
                for one in case.choices
                if not measure.pruned(case, one, target)
            }
            known = {text: found for text, key in keys.items() if (found := cache.get(key))}
            if target.together and len(known) < len(keys):
                known = {}  # times compare only within one run
            new = measured(case, [x for x in case.choices if _text(x) in keys.keys() - known])
            verdicts = []
            for one in case.choices:
                text, why = _text(one), measure.pruned(case, one, target)
                verdict = Verdict(None, target.unit, why) if why else known.get(text)
                if verdict is None:
                    verdict = next(new)
                    if verdict.lasting:
                        cache.add(keys[text], verdict)
                verdicts.append((one, verdict))
                yield case, one, verdict
            yield Found(case, verdicts)


class Cache:
    """Verdicts by a digest of all they depend on, in a file that only grows.

    Args:
        path: need not exist.
        fresh: knows nothing yet, but keeps what is found.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path, self.hits = path, 0
        lines = path.read_text().splitlines() if path.exists() and not fresh else []
        self._known = {key: verdict for line in lines for key, verdict in _kept(line)}

    def get(self, key: str) -> Verdict | None:
        """What is known, which is counted."""
        self.hits += key in self._known
        return self._known.get(key)

    def add(self, key: str, verdict: Verdict) -> None:
        """Keeps a verdict."""
        self._known[key] = verdict
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key} | asdict(verdict)) + "\n")


def _kept(line: str) -> Iterator[tuple[str, Verdict]]:
    """What a line of the cache says; nothing where a process that ended has cut it."""
    try:
        told = json.loads(line)
        yield told.pop("key"), Verdict(**told)
    except (ValueError, KeyError, TypeError):
        return


def source(op: str) -> str:
    """A digest of the code of an operation."""
    files = sorted((HERE / op).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _key(case: Case, blocks: Blocks, target: measure.Target, code: str) -> str:
    told = [target.name, target.device, case.program, case.given, _text(blocks)]
    told += [versions_of(PACKAGES), code]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _text(blocks: Blocks) -> str:
    return ", ".join(f"{name} {value}" for name, value in blocks.items()) or "no blocks"


def row(found: Found, target: measure.Target) -> Row:
    """The winner as the table has it.

    Raises:
        InputError: no candidate fits.
    """
    case, best = found.case, found.best
    if best is None:
        raise InputError(
            f"{case.kernel} {case.size}: none of {len(case.candidates)} candidates fits "
            f"{target.device}: {found.verdicts[0][1].why}."
        )
    blocks, verdict = best
    peers = [other.value for choice, other in found.verdicts if not choice]
    told = {
        **{"value": verdict.value, "unit": verdict.unit, "of": len(case.candidates)},
        **({"peer": peers[0]} if peers else {}),
        **{"case": case.text, "versions": versions_of(PACKAGES)},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    place = case.platform, case.kernel, case.size, (target.device,)
    return Row(*place, blocks, target.by, told)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    ops = [path.parent.name for path in sorted(HERE.glob("*/tune.py"))]
    if given.op not in ops:
        raise InputError(f"no operation is called {given.op!r} here; {suggest(given.op, ops)}.")
    target = measure.target(given.target)
    cases = _chosen(given.op, target, given.only)
    path = given.table or HERE / given.op / "blocks.json"
    cache = Cache(given.cache, given.fresh)
    for one in tune(cases, target, cache, source(given.op)):
        if not isinstance(one, Found):
            _say(given.json, *one)
            continue
        new = row(one, target)
        # Read again, since another process may tune for another target.
        told = Table.read(path) if path.exists() else Table([])
        told.with_row(new).write(path)
        print(new.line() if given.json else f"  best: {_text(new.blocks)}", flush=True)
    print(f"{cache.hits} verdicts were known, by {cache.path}", file=sys.stderr)
    return 0


def _chosen(op: str, target: measure.Target, only: str) -> list[Case]:
    cases = importlib.import_module(f"jaxdl.kernels.{op}.tune").cases(
        target.platform, target.device
    )
    names = [f"{case.kernel} {case.size}" for case in cases]
    words = [word for word in only.split(",") if word]
    chosen = [
        case
        for case, name in zip(cases, names, strict=True)
        if all(word in name.split() for word in words)
    ]
    if not cases:
        raise InputError(f"{op} has nothing to tune for {target.platform}.")
    if not chosen:
        raise InputError(f"{op} has no {only!r} for {target.platform}; it has {', '.join(names)}.")
    return chosen


def _say(as_json: bool, case: Case, blocks: Blocks, verdict: Verdict) -> None:
    told = {"kernel": case.kernel, "size": case.size, "blocks": dict(blocks)} | asdict(verdict)
    text = f"{case.kernel} {case.size}: {_text(blocks)}: {verdict}"
    print(json.dumps(told) if as_json else text, flush=True)


def _parser() -> argparse.ArgumentParser:
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdl/tune.jsonl"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("op", help="a folder of jaxdl.kernels")
    parser.add_argument("--target", default="here", help="such as v6e:2x2, h200:1, here")
    parser.add_argument("--only", default="", help="words of a case's name, by commas: rms,8192")
    parser.add_argument("--table", type=Path, help="the table to write, if not its own")
    parser.add_argument("--cache", type=Path, default=kept, help="where verdicts are kept")
    parser.add_argument("--fresh", action="store_true", help="measure also what is known")
    parser.add_argument("--json", action="store_true", help="print JSON, an object a line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
