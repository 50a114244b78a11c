"""Stands for `jaxdl train FILE --run-dir DIR --json`: a run without jax, in milliseconds.

Its loss falls with the steps towards `model.x`, written nine times, each time after DELAY seconds.
SIGTERM ends it with 75; the next sitting goes on after what it wrote. `model.kind` says how it
ends.

Run:    python child.py DELAY train FILE --run-dir DIR --json
"""

import ast
import fcntl
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

delay, file, run = float(sys.argv[1]), Path(sys.argv[3]), Path(sys.argv[5])
text = re.search(r"^EDITS = (\{.*?^\})", file.read_text(), re.S | re.M)
edits = ast.literal_eval(text[1])
x, kind, steps = edits.get("model.x", 0.0), edits.get("model.kind", "a"), edits.get("steps", 81)

run.mkdir(parents=True, exist_ok=True)
lock = os.open(run, os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where two train in one place
with (run / "starts").open("a") as starts:
    starts.write(f"{os.getpid()}\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
if kind == "crash":
    sys.exit("ValueError: the run went wrong")
if kind == "killed" or (kind == "killed once" and (run / "starts").read_text().count("\n") == 1):
    os.kill(os.getpid(), signal.SIGKILL)

metrics = run / "metrics.jsonl"
before = metrics.read_text().count("\n") if metrics.exists() else 0
with metrics.open("a", buffering=1) as lines:
    for step in [1, 2, 3, 5, 9, 15, 27, 45, steps][before:]:
        loss = x + 1 / step
        record = {"step": step, "split": "valid", "time": 0.1, "values": {"loss": loss}}
        lines.write(json.dumps(record) + "\n")
        time.sleep(delay)
loss = None if kind == "nan" else x
result = {"status": "done", "steps": steps, "seconds": 2.0 - x, "primary": "valid/loss"}
result |= {"metrics": {"valid": {"loss": loss}}, "best": None, "schema": 1}
(run / "result.json").write_text(json.dumps(result))
