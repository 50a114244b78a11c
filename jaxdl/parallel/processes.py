"""Several processes as one run: start-up, and what they settle among themselves.

Everything below `joined` is called by all processes in the same order, like any collective; in a
process alone it costs nothing.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdl.core.errors import InputError
from jaxdl.parallel.rendezvous import Facts, Member, meet

log = logging.getLogger("jaxdl")
SECONDS = 50.0
"""In which a start has to be complete; $JAXDL_START_SECONDS is another."""
MEETING = 0.7
"""The share of it after which process 0 waits for nobody; the last may need some to come up."""
LINGER = 1.0
"""Seconds that process 0, to which all are connected, stays on after a failure."""
WORDS = 512
"""Bytes of a text that `gathered` carries."""


def find(
    coordinator: str = "", index: int | None = None, count: int | None = None
) -> Member | None:
    """This process's place among several, as told or, told nothing, as the cluster's environment
    tells (Cloud TPU, GKE, SLURM, Open MPI, Kubernetes jobs); None for a process alone.

    Raises:
        InputError: something is missing, or the cluster does not tell.
    """
    if count == 1:
        return None
    if coordinator or index is not None or count is not None:
        if not coordinator or index is None or count is None:
            raise InputError(
                "give all three: --coordinator HOST:PORT --process-id I --process-count N."
            )
        return Member(coordinator, index, count)
    address, count, index, local = _detected()
    if address is None or count is None or index is None or count == 1:
        return None
    return Member(address, index, count, None if local is None else tuple(local))


def _detected() -> tuple[Any, ...]:
    """Coordinator, number of processes, this one's and its devices, as far as a cluster tells."""
    try:
        # No public function tells without starting, and jax names nobody when the start fails.
        from jax._src.clusters import ClusterEnv

        with warnings.catch_warnings(action="ignore"):
            unset, patience = (None,) * 5, int(MEETING * _seconds())
            return ClusterEnv.auto_detect_unset_distributed_params(*unset, patience)
    except (ImportError, AttributeError, TypeError) as error:
        log.warning(
            "this jax does not tell whether it is in a cluster (%s); there, give --coordinator, "
            "--process-id and --process-count.",
            _first_line(error),
        )
        return (None,) * 4
    except Exception as error:
        raise InputError(
            f"the cluster around this process does not tell its place ({_first_line(error)}); give "
            "--coordinator, --process-id and --process-count, or --process-count 1 to train alone."
        ) from error


class StartUp:
    """Ends this process, also where no exception reaches it, unless the block ends in time."""

    def __init__(self):
        self.seconds = _seconds()
        self.stuck = "the cluster around this process has not told its place"
        """What is to be said of it."""
        self._end = time.monotonic() + self.seconds
        self._timer = threading.Timer(self.seconds, self._give_up)
        self._timer.daemon = True

    def __enter__(self) -> StartUp:
        """Starts the clock."""
        self._timer.start()
        return self

    def __exit__(self, *_) -> None:
        """Stops it."""
        self._timer.cancel()

    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def _give_up(self) -> None:
        print(f"jaxdl: {self.stuck} within {self.seconds:g} s.", file=sys.stderr)
        _leave(2)


@contextmanager
def joined(place: Callable[[], Member | None], facts: Facts) -> Iterator[None]:
    """Runs the block as one process of several, at the place that is found, all of them started
    with the same `facts` (JSON); by itself where no place is found.

    No device may have been asked for before. A process that fails in the block ends without waiting
    for the others, who then end too.

    Raises:
        InputError: the processes do not come together, naming which one and why.
    """
    member = None
    try:
        with StartUp() as start:
            member = place()
            if member is not None:
                _start(member, facts, start)
        yield
    except BaseException as error:
        if member is not None:
            code = {InputError: 2, KeyboardInterrupt: 130}.get(type(error), 1)
            # Before jax's own, which would wait for the others. Process 0 leaves late: those that
            # fail for the same reason could not say so without it.
            atexit.register(_leave, code, LINGER if member.index == 0 else 0.0)
        raise


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def gathered(text: str = "") -> list[str]:
    """What each process has to say, in their order; returns when all have come."""
    if jax.process_count() == 1:
        return [text]
    said = np.frombuffer(text.encode()[:WORDS].ljust(WORDS, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(said)
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def decided(fn: Callable[[], Any]) -> Any:
    """`fn()` (JSON), called by process 0 alone once all have come; its error ends everyone."""
    if jax.process_count() == 1:
        return fn()
    gathered()
    said, error = None, None
    if is_first():
        try:
            said = {"value": fn()}
        except Exception as raised:  # the others must not wait for ever
            error, said = raised, {"error": str(raised) or type(raised).__name__}
    said = json.loads(_from_first(json.dumps(said).encode()))
    if "error" in said:
        raise error or InputError(said["error"])
    return said["value"]


def fetched(tree: Any) -> Any:
    """`tree` as numpy arrays, in every process whole, however it is divided among them."""

    def whole(x):
        here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x if here else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, tree) if jax.process_count() > 1 else jax.device_get(tree)


def _start(member: Member, facts: Facts, start: StartUp) -> None:
    start.stuck = f"{member} has not reached {member.coordinator}, whose name may not resolve,"
    meet(member, facts, MEETING * start.left())
    start.stuck = (
        f"{member} has met the others; look at their messages, and at what holds the devices, "
        "which have not come up together"
    )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            member.coordinator,
            member.count,
            member.index,
            local_device_ids=member.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=int(start.left()) + 1,
        )
        devices = Counter(device.process_index for device in jax.devices())
    except Exception as error:
        raise InputError(
            f"{member} cannot join the others at {member.coordinator}: {_first_line(error)}."
        ) from error
    if len(set(devices.values())) > 1:
        told = ", ".join(f"process {i} has {n}" for i, n in sorted(devices.items()))
        raise InputError(f"the processes have unequal numbers of devices: {told}; give each alike.")
    if jax.default_backend() == "cpu":
        _keep_stdout()


def _keep_stdout() -> None:
    """Leaves stdout to Python: Gloo tells there of every connection it makes."""
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _from_first(data: bytes) -> bytes:
    """The bytes of process 0; padded, so that few lengths are compiled."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    room = 1 << max(size, WORDS).bit_length()
    padded = np.frombuffer(data[:room].ljust(room, b"\0"), np.uint8)
    return multihost_utils.broadcast_one_to_all(padded).tobytes()[:size]


def _seconds() -> float:
    told = os.environ.get("JAXDL_START_SECONDS", "")
    try:
        return float(told or SECONDS)
    except ValueError:
        raise InputError(f"JAXDL_START_SECONDS={told!r} must be a number of seconds.") from None


def _leave(code: int, after: float = 0.0) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(after)
    os._exit(code)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
