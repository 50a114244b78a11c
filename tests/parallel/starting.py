"""A process that starts as one of several, says so, and ends when its stdin does.

Arguments: coordinator, number, count, and what it does instead of its part.
"""

import sys
import time

import jax

from jaxdl.core.errors import InputError
from jaxdl.parallel import Member
from jaxdl.parallel.processes import joined


def hang(*_, **__):
    """Never returns where an exception could be raised."""
    time.sleep(600)


def main(coordinator, index, count, trouble=""):
    """The exit code."""
    place = hang if trouble == "no place" else lambda: Member(coordinator, int(index), int(count))
    if trouble == "no devices":
        jax.distributed.initialize = hang
    print("starting", flush=True)
    try:
        with joined(place, {"seed": 0}):
            print("joined", flush=True)
            sys.stdin.read()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
