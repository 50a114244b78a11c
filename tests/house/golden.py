"""The quickstart's resolved configuration, kept in tests/golden/quickstart.json.

Run:    python tests/house/golden.py     # after a change that was meant
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from jaxdl.core import dump, load_experiment

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "quickstart.json"


def resolved() -> str:
    """The configuration as stable JSON."""
    with contextlib.chdir(ROOT):  # files are named from the working folder
        experiment, _ = load_experiment("experiments/quickstart.py")
        return json.dumps(dump(experiment), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(resolved())
