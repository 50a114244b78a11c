"""Several machines on one study in a real PostgreSQL server, two of them killed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

TRIALS = 24


def binary(name: str) -> str | None:
    """Debian keeps the server's programs off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else shutil.which(name)


@pytest.fixture
def postgres():
    """The URL of a server of its own, on a socket only."""
    initdb, server = binary("initdb"), binary("postgres")
    if not initdb or not server:
        pytest.skip("no PostgreSQL server here; Debian's package postgresql has one")
    folder = Path(tempfile.mkdtemp(prefix="jaxdl-pg-"))
    user = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to be
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = {"user": "postgres" if "postgres" in names else "nobody"}
        shutil.chown(folder, user["user"])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": folder} | user
    command = [initdb, "-D", folder / "data", "-A", "trust", "-U", "me", "--no-sync"]
    subprocess.run(command, check=True, **quiet)
    options = ("listen_addresses=", "fsync=off", "max_connections=50")
    settings = [part for option in options for part in ("-c", option)]
    log = (folder / "log").open("w")
    running = subprocess.Popen(
        [server, "-D", folder / "data", "-k", folder, *settings],
        **quiet | {"stderr": log},
    )
    try:
        for _ in range(300):
            if (folder / ".s.PGSQL.5432").exists() and running.poll() is None:
                break
            time.sleep(0.1)
        yield f"postgresql+psycopg://me@/postgres?host={folder}"
    finally:
        running.send_signal(signal.SIGINT)  # does not wait for its clients
        running.wait(60)
        log.close()
        shutil.rmtree(folder)


def cut(folder: Path) -> set[str]:
    """Trials whose file was written, but not their end."""
    return {
        p.stem for p in folder.glob("trial-*.py") if not (folder / p.stem / "result.json").exists()
    }


@pytest.mark.slow
@pytest.mark.row("R-008")
def test_two_of_four_workers_are_killed_and_no_trial_is_lost_or_doubled(
    postgres, worker, workers, tmp_path
):
    (tmp_path / "exp.py").write_text(worker.EXPERIMENT)
    places = [tmp_path / name for name in "abcd"]  # machines that see no file of one another
    options = {"url": postgres, "delay": 0.15, "beat": 0.5, "grace": 8.0}
    team = [workers(place, TRIALS, **options) for place in places]
    until = time.monotonic() + 120
    while any(not cut(place) for place in places[:2]):
        assert time.monotonic() < until and all(p.poll() is None for p in team)
        time.sleep(0.02)
    for victim in team[:2]:
        victim.kill()
        victim.wait()
    held = [cut(place) for place in places[:2]]
    assert all(held), "each was killed within a trial"
    assert [process.wait(240) for process in team[2:]] == [0, 0]

    _, study = worker.make(tmp_path / "e", TRIALS, url=postgres)
    rows = study.rows()
    study._storage._backend.engine.dispose()
    assert [row.number for row in rows] == list(range(TRIALS))
    assert all(row.state == "done" and row.values == (row.labels["model.x"],) for row in rows)
    assert len({row.labels["model.x"] for row in rows}) == TRIALS
    files = [file for place in places for file in place.glob("trial-*.py")]
    counts = Counter(file.stem for file in files)
    lost = held[0] | held[1]
    assert {name for name, count in counts.items() if count > 1} == lost
    assert all(counts[name] == 2 for name in lost), "each of them began once more"
    for name in lost:  # the same trial: what it tries is as it was
        texts = {file.read_text().partition("EDITS")[2] for file in files if file.stem == name}
        assert len(texts) == 1
