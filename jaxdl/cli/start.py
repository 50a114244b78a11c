"""`jaxdl` as a child of this process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

PARENT_DEATH = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": "",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
"""What runs share compiled programs by; the first is a folder."""


def sharing(folder: Path) -> dict[str, str]:
    """The variables by which children keep compiled programs in `folder`, those aside that are
    set already."""
    place = str(folder.absolute())
    return {name: text or place for name, text in CACHE.items() if name not in os.environ}


def start(
    arguments: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] = {},
    cores: Collection[int] = (),
) -> subprocess.Popen:
    """Starts `jaxdl ARGUMENTS` with this interpreter; what it says is appended to `log`.

    It leads a process group of its own, so that Ctrl-C on the terminal is for its parent to pass
    on. On Linux it gets SIGTERM, and saves, when its parent has died, and computes on `cores` only
    where some are named.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "jaxdl", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": path} | env,
            start_new_session=True,
            preexec_fn=bound(cores),
        )


def bound(cores: Collection[int] = ()) -> Callable[[], None] | None:
    """What a child does before it becomes another program: `preexec_fn` of `subprocess`.

    On Linux it gets SIGTERM when this process has died, and computes on `cores` where some are
    named.
    """
    if sys.platform != "linux":
        return None
    parent, library = os.getpid(), ctypes.CDLL(None)  # here: the child must do little before exec

    def prepare() -> None:
        library.prctl(PARENT_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it was watched
            os._exit(128 + signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, cores)

    return prepare
