"""The command line: `jaxdl COMMAND`. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import errno
import importlib
import inspect
import logging
import os
import re
import select
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jaxdl

COMMANDS = {
    "train": ("jaxdl.cli.train:train", "train an experiment, or resume it"),
    "ablate": ("jaxdl.cli.ablate:ablate", "train variants with several seeds, and compare them"),
    "why": ("jaxdl.cli.why:why", "explain why two runs differ"),
    "sweep": ("jaxdl.cli.sweep:sweep", "search an experiment's hyper-parameters"),
    "eval": ("jaxdl.cli.eval:evaluate", "evaluate a run's checkpoint"),
    "report": ("jaxdl.cli.report:report", "compare runs, with intervals and a page to send"),
    "power": ("jaxdl.cli.power:power", "how many seeds would show an effect"),
    "data": ("jaxdl.cli.data:data", "fetch and list data sets"),
    "plan": ("jaxdl.cli.plan:plan", "compile an experiment for absent hardware, and audit it"),
    "bench": ("jaxdl.cli.bench:bench", "measure step, loop and input, beside other frameworks"),
    "profile": ("jaxdl.cli.profile:profile", "where the time of an experiment's step goes"),
    "doctor": ("jaxdl.cli.doctor:doctor", "check the installation, or a run's checkpoints"),
}
"""Name -> function and summary; each is imported when it is called."""

PREEMPTIBLE = ("train", "ablate", "sweep")
"""What SIGTERM ends with exit code 75: the same command goes on."""

UNREAD = 141
"""Exit code where nobody reads what is printed: what a shell tells of SIGPIPE."""

DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR),  # a file where a folder should be
)
"""What a user mends by making room or choosing another place."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; its exit code.

    0 done, 2 bad input (a message, no traceback), 75 preempted after a good checkpoint, 130 after
    Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        print(f"jaxdl {jaxdl.__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        from jaxdl.core.errors import suggest

        return _refuse(f"there is no command {name!r}; {suggest(name, COMMANDS)}.")
    with _interruptible(preemptible=name in PREEMPTIBLE):
        return _run(name, rest)


def _run(name: str, rest: list[str]) -> int:
    from jaxdl.core.errors import InputError

    module, function = COMMANDS[name][0].split(":")
    try:
        import tyro

        command = getattr(importlib.import_module(module), function)
        _log_to_stderr()
        description = _description(command.__doc__ or "")
        # Of an argument's words tyro would keep the line breaks, and break lines again.
        command.__doc__ = re.sub(r"\n {12}", " ", command.__doc__ or "")
        code = tyro.cli(command, args=rest, prog=f"jaxdl {name}", description=description) or 0
        sys.stdout.flush()
        return code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except InputError as error:
        if os.environ.get("JAXDL_TRACEBACK"):
            raise
        return _refuse(str(error))
    except BrokenPipeError:
        if not _unread():
            raise
        return UNREAD
    except OSError as error:
        if error.errno not in DISK or os.environ.get("JAXDL_TRACEBACK"):
            raise
        place = f" ({error.filename})" if error.filename else ""
        return _refuse(
            f"{error.strerror}{place}; make room or choose another place, then run again."
        )


@contextmanager
def _interruptible(preemptible: bool) -> Iterator[None]:
    """Ctrl-C, and for a `preemptible` command SIGTERM, end the process at once where no training
    handles them: whatever was saved is good, and the same command goes on from there.

    Imports and tracing may swallow an exception raised by a handler and go on.
    """
    codes = {signal.SIGINT: 130} | ({signal.SIGTERM: 75} if preemptible else {})
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, lambda s, _: os._exit(codes[s])) for s in codes}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unread() -> bool:
    """Whether nobody reads what is printed any more, as after `| head`."""
    watch, stdout = select.poll(), sys.stdout.fileno()
    watch.register(stdout, 0)
    gone = any(event & select.POLLERR for _, event in watch.poll(0))
    if gone:  # Python flushes once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone


def _description(doc: str) -> str:
    """What a docstring says before its arguments, in lines no wider than the screen.

    tyro keeps a line break only before a line that is indented. An example stays one line, so
    that it can be copied.
    """
    width = shutil.get_terminal_size().columns
    words = textwrap.TextWrapper(width, subsequent_indent="  ", break_on_hyphens=False)
    paragraphs = inspect.cleandoc(doc).partition("\n\nArgs:")[0].split("\n\n")
    return "\n\n".join(p if p.startswith("Example:") else words.fill(p) for p in paragraphs)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxdl COMMAND [--help] ...",
            "",
            "Plan, train, survive and compare deep-learning experiments in JAX.",
            "",
            *lines,
            "",
            "example: jaxdl train experiments/quickstart.py --set optim.peak_lr=1e-3",
        ]
    )


def _refuse(message: str) -> int:
    print(f"jaxdl: {message}", file=sys.stderr)
    return 2


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jaxdl: %(message)s"))
    logger = logging.getLogger("jaxdl")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    # Orbax logs, with a traceback, what it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
