"""A process of those that `test_deterministic` starts: FOLDER COORDINATOR INDEX."""

import json
import sys
from pathlib import Path

from jaxdl.core.loading import load_file
from jaxdl.parallel import Member, is_first
from jaxdl.parallel.processes import joined

if __name__ == "__main__":
    folder, coordinator, index = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with joined(lambda: Member(coordinator, index, 4), {}):
        rows = load_file(__file__.replace("one_of_four", "test_deterministic"))
        found = rows.found_in(folder, [{"data": 2, "fsdp": 4}] * 2)
        if is_first():
            (folder / "found.json").write_text(json.dumps(found))
