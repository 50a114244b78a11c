"""A run once more, from its passport alone."""

from __future__ import annotations

import logging
from pathlib import Path

from jaxdl import report
from jaxdl.core import Experiment, records
from jaxdl.core.codec import load
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file, split_source
from jaxdl.core.records import Passport
from jaxdl.report.differences import Difference
from jaxdl.report.sources import Sources
from jaxdl.train.passport import issue
from jaxdl.train.snapshot import take

log = logging.getLogger("jaxdl")


def passport_of(run: Path) -> tuple[Experiment, Passport]:
    """The experiment of a run, and its passport.

    The experiment's file is loaded where it is here: it may set up jax, or load more code.

    Raises:
        InputError: there is none, or what it names is not here.
    """
    passport = records.read_passport(run)
    file = split_source(passport.source)[0]
    if Path(file).is_file():
        load_file(file)
    try:
        return load(passport.experiment), passport
    except InputError as error:
        raise InputError(f"{error} The run was started in {passport.folder}.") from None


def check(run: Path, exp: Experiment, anyway: bool) -> None:
    """Says what is not as it was when the run was made.

    Raises:
        InputError: something is that can move numbers, and not `anyway`.
    """
    passport = records.read_passport(run)
    code = take(passport.source)
    now = issue(exp, passport.source, code=code)
    then = records.read_code(run)
    sources = (then and Sources(run, passport, then), Sources(run, now, code.code))
    found = report.between((passport, then), (now, code.code), sources)
    found = [d for d in found if d.kind not in ("config", "seed", "kernels")]
    moving = [d for d in found if d.stage != "nothing"]
    if not moving:
        return
    told = "\n".join(f"  {line(d)}" for d in sorted(moving, key=lambda d: d.rank))
    if not anyway:
        raise InputError(
            f"{run} was made under other conditions, so its numbers may not come again:\n{told}\n"
            "Restore them, or repeat it with --anyway."
        )
    log.warning("not as it was when %s was made (then, now):\n%s", run, told)


def compared(run: Path, again: Path) -> str:
    """Whether the numbers came again, in one sentence."""
    ends = records.read_result(run), records.read_result(again)
    found = report.compare(records.read_records(run), records.read_records(again), ends)
    parting = found.parting
    if parting is None:
        return f"the same numbers as {run} in {found.compared} records"
    a, b = parting.values[parting.metric]
    return (
        f"the numbers part from {run} at step {parting.step}: {parting.split}/{parting.metric} "
        f"{a:.9g}, now {b:.9g}"
    )


def line(d: Difference) -> str:
    """A difference on one line."""
    return f"{d.kind} {d.name}: {d.a or 'nothing'} -> {d.b or 'nothing'}"
