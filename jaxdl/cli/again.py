"""Trains what a request describes, up to one step: the child process of `jaxdl why --bisect`.

Run:    python -P again.py REQUEST
"""

import json
import sys
from pathlib import Path


def main(request: dict) -> None:
    """Leaves a run directory; jaxdl is whichever comes first on the path."""
    from jaxdl.core import Stop, load
    from jaxdl.core.loading import load_file
    from jaxdl.train import fit

    class Until:
        def __call__(self, step, state, metrics):
            if step >= request["until"] and step < exp.steps:
                raise Stop("far enough", status="stopped")

        def close(self):
            pass

    if Path(request["file"]).is_file():
        load_file(request["file"])  # it may set up jax
    exp = load(request["experiment"])
    fit(exp, Path(request["directory"]), watch=lambda program, run: (Until(),))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
