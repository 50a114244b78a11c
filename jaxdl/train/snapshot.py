"""The code that runs, taken down: revisions, a digest of every file, and what is not committed."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jaxdl
from jaxdl.core import records
from jaxdl.core.records import Code, write_json
from jaxdl.core.repository import digest_of, git

KINDS = (".py", ".toml", ".cfg")
"""What files must end in to count as code."""
NUMERIC = ("jax", "flax", "optax", "chex", "clu", "ml_dtypes")
"""Packages whose Python files have a digest: a version number does not show an edit."""
LARGEST = 2_000_000
"""Bytes of untracked code that a patch may hold; data and runs are fingerprinted elsewhere."""
OWN = Path(jaxdl.__file__).parent


@dataclass(frozen=True)
class Snapshot:
    """The code of a run, as it was when it started."""

    told: Mapping[str, Any]
    """`Passport.code`."""
    code: Code
    patches: Mapping[str, bytes] = field(repr=False)
    """Files to write beside the passport, by name."""

    def theirs(self) -> list[Path]:
        """The files that are not jaxdl's."""
        root = Path(self.code.roots["here"])
        return [root / name for name in self.code.files["here"]]

    def keep(self, directory: Path, step: int) -> None:
        """Writes it into a run directory; a later sitting only where its code is another.

        That one's files carry its first `step` in their names.
        """
        first = records.read_code(directory)
        if first and (first.files, first.packages) == (self.code.files, self.code.packages):
            return
        mark = f"-{step}" if first else ""
        for name, content in self.patches.items():
            path = directory / name
            path.with_name(path.stem + mark + path.suffix).write_bytes(content)
        write_json(directory / f"code{mark}.json", self.code)


def take(source: str = "") -> Snapshot:
    """The code of jaxdl and of the experiment that `source` begins with, as it is on disk now."""
    file = Path(source.partition(".py")[0] + ".py")
    known = file.is_file()
    folder = file.resolve().parent if known else Path.cwd()
    own, here = _Place(OWN.parent), _Place(folder)
    here = own if here.root == own.root else here
    ours = {f for top in _own_folders() for f in top.rglob("*.py")}
    theirs = {f.resolve() for f in _loaded()} | (set(folder.glob("*.py")) if known else set())
    files = {"jaxdl": own.digests(ours), "here": here.digests(theirs - ours)}
    told = {
        "jaxdl": own.revision(),
        "here": here.revision(),
        "file": digest_of(file.read_bytes()) if known else None,
        "files": digest_of(repr(sorted((k, sorted(v.items())) for k, v in files.items())).encode()),
    }
    patches = {records.PATCH: here.patch(theirs)}
    if own is not here:
        patches[records.OWN_PATCH] = own.patch(set())
    roots = {"jaxdl": str(own.root), "here": str(here.root)}
    kept = {name: patch for name, patch in patches.items() if patch}
    return Snapshot(told, Code(files, roots, _packages()), kept)


class _Place:
    """A folder of code, and the repository around it if there is one."""

    def __init__(self, folder: Path):
        top = git(folder, "rev-parse", "--show-toplevel")
        self.repository = top is not None
        self.root = Path(top.decode().strip()) if top else folder

    def revision(self) -> dict[str, str | None] | None:
        """Commit, and a digest of all code that is not committed."""
        if not self.repository:
            return None
        head, patch = git(self.root, "rev-parse", "HEAD"), self._changes
        return {
            "revision": head and head.decode().strip(),
            "diff": digest_of(patch) if patch else None,
        }

    @cached_property
    def _changes(self) -> bytes:
        plain = ("-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false")
        exact = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames")
        kinds = [f":(glob)**/*{kind}" for kind in KINDS]
        changed = git(self.root, *plain, "diff", "HEAD", *exact, "--", *kinds) or b""
        new = git(self.root, "ls-files", "--others", "--exclude-standard", "-z", "--", *kinds)
        names = sorted(filter(None, (new or b"").decode(errors="surrogateescape").split("\0")))
        return changed + _as_new(self.root, (self.root / name for name in names))

    def patch(self, files: Iterable[Path]) -> bytes:
        """What makes a clean checkout this code; without a repository, `files` from nothing."""
        if self.repository:
            return self._changes
        return _as_new(self.root, (f for f in sorted(files) if f.is_relative_to(self.root)))

    def digests(self, files: Iterable[Path]) -> dict[str, str]:
        """A digest of each file, by its path below the root or, outside, its whole path."""
        named = {}
        for file in sorted(files):
            inside = file.is_relative_to(self.root)
            named[file.relative_to(self.root).as_posix() if inside else str(file)] = file
        there = {name: file for name, file in named.items() if file.is_file()}
        return {name: digest_of(file.read_bytes()) for name, file in there.items()}


def _own_folders() -> list[Path]:
    """Where jaxdl's own files are: kernels may lie beside the package."""
    kernels = find_spec("jaxdl.kernels")
    places = (kernels and kernels.submodule_search_locations) or ()
    return [OWN, *(Path(place).resolve() for place in places)]


def _loaded() -> list[Path]:
    """Files of loaded modules that belong to no installed package, experiment files included."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {place for place in sys.path if any(Path(place or ".").glob("*.dist-info"))}
    installed = tuple(place.rstrip("/") + "/" for place in places if place)
    names = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    found = (Path(name) for name in names if name and not name.startswith(installed))
    return [file for file in found if file.suffix == ".py" and file.is_file()]


@cache
def _packages() -> dict[str, str]:
    """As they were imported; once a process, since there are a thousand files."""
    found = {}
    for name in NUMERIC:
        places = [p for p in getattr(sys.modules.get(name), "__path__", ()) if p]
        files = [f for place in places for f in sorted(Path(place).rglob("*.py"))]
        if files:
            found[name] = digest_of(b"".join(_content(f) for f in files))
    return found


def _content(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def _as_new(root: Path, files: Iterable[Path]) -> bytes:
    """A patch that adds these files."""
    patch, size = b"", 0
    for file in files:
        size += file.stat().st_size
        if size > LARGEST:
            break
        patch += _added(file.relative_to(root).as_posix(), file.read_bytes())
    return patch


def _added(name: str, content: bytes) -> bytes:
    head = f"diff --git a/{name} b/{name}\nnew file mode 100644\n".encode(errors="surrogateescape")
    if not content:
        return head + b"index 0000000..e69de29\n"
    lines = content.split(b"\n")
    whole = lines[-1] == b""
    lines = lines[:-1] if whole else lines
    tab = "\t" if " " in name else ""
    head += f"--- /dev/null\n+++ b/{name}{tab}\n@@ -0,0 +1,{len(lines)} @@\n".encode()
    body = b"".join(b"+" + line + b"\n" for line in lines)
    return head + body + (b"" if whole else b"\\ No newline at end of file\n")
