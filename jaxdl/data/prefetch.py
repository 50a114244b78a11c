"""Preparing the next batches while the device computes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import jax

from jaxdl.core.errors import InputError
from jaxdl.core.task import Batch

MAX_DEPTH = 16


def prefetch(get: Callable[[int], Batch], depth: int = 2) -> Prefetch:
    """`get`, with up to `depth` further batches made ahead in one thread; close it after use.

    Raises: InputError when depth is not in 1 to 16, with what the batches would weigh.
    """
    if depth < 1:
        raise InputError(f"depth={depth} must be at least 1.")
    if depth > MAX_DEPTH:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(get(0)))
        raise InputError(
            f"depth={depth} would keep {depth * size / 1e9:.3g} GB of batches in memory "
            f"({size / 1e6:.3g} MB each); 2 to 4 hide the host, {MAX_DEPTH} is the most."
        )
    return Prefetch(get, depth)


class Prefetch:
    """What `prefetch` returns: call it with n for batch n, in any order; n, n + 1, ... is fast.

    An error in the background is raised by the call that asks for its batch, with a note that names
    the batch; asking again tries again.
    """

    def __init__(self, get: Callable[[int], Batch], depth: int):
        """See `prefetch`."""
        self._get, self._depth = get, depth
        self._ready: deque = deque()  # of (batch, error), consecutive, the first being batch _head
        self._head: int | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def __call__(self, n: int) -> Batch:
        """Batch n, waiting for it where it is not ready."""
        with self._changed:
            if n != self._head:
                self._head = n
                self._ready = deque()  # a new object: the worker sees that its batch went stale
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._ready or self._closed)
            if self._closed:
                raise RuntimeError(f"batch {n} was asked of a closed prefetch.")
            batch, error = self._ready.popleft()
            self._head = n + 1
            self._changed.notify_all()
        if error is not None:
            error.add_note(f"while preparing batch {n}")
            raise error
        return batch

    def close(self) -> None:
        """Ends the thread, after the batch it is at, and drops what it made."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._closed:
                    return
                ready, n = self._ready, self._head + len(self._ready)
            try:
                result = self._get(n), None
            except BaseException as error:  # the caller's to judge: lost here, it would hang them
                result = None, error
            with self._changed:
                if ready is self._ready:
                    ready.append(result)
                    self._changed.notify_all()

    def _has_work(self) -> bool:
        return self._closed or (self._head is not None and len(self._ready) < self._depth)
