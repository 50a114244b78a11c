"""The code that runs, taken down: revisions, a digest of every file, and what is not committed."""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jaxdl
from jaxdl.core import records
from jaxdl.core.loading import split_source
from jaxdl.core.records import Code, write_json
from jaxdl.core.repository import digest_of, git
from jaxdl.train.imports import reached

KINDS = (".py", ".toml", ".cfg")
"""What files must end in for their changes to count as code; of new files only those that ran."""
SECRET = re.compile("secret|credential|passw", re.IGNORECASE)
"""In names of files that no patch holds."""
NUMERIC = ("jax", "flax", "optax", "chex", "clu", "ml_dtypes")
"""Packages whose Python files have a digest: a version number does not show an edit."""
LARGEST = 2_000_000
"""Bytes of untracked code that a patch may hold; data and runs are fingerprinted elsewhere."""
OWN = Path(jaxdl.__file__).resolve().parent


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
    file = Path(split_source(source)[0])
    known = file.is_file()
    folder = file.resolve().parent if known else Path.cwd()
    own, here = _Place(OWN.parent), _Place(folder)
    here = own if here.root == own.root else here
    ours = frozenset(f for top in _own_folders() for f in top.rglob("*.py"))
    start = _loaded() - ours | ({file} if known else set())
    theirs = reached(start, [folder, *_searched()], ours)
    files = {"jaxdl": own.digests(ours), "here": here.digests(theirs)}
    ran = own.digests(_needed(ours))
    used = [sorted(ran.items()), sorted(files["here"].items())]
    mine = ours if own.repository else frozenset()
    patch = here.patch(theirs | mine if own is here else theirs)
    own_patch = patch if own is here else own.patch(mine)
    told = {
        "jaxdl": own.revision(own_patch),
        "here": here.revision(patch),
        "file": digest_of(file.read_bytes()) if known else None,
        "files": digest_of(repr(used).encode()),
    }
    patches = {records.PATCH: patch} | ({} if own is here else {records.OWN_PATCH: own_patch})
    roots = {"jaxdl": str(own.root), "here": str(here.root)}
    kept = {name: patch for name, patch in patches.items() if patch}
    left_out = tuple(sorted(own.left_out | here.left_out))
    return Snapshot(told, Code(files, roots, _packages(), tuple(ran), left_out), kept)


class _Place:
    """A folder of code, and the repository around it if there is one."""

    def __init__(self, folder: Path):
        top = git(folder, "rev-parse", "--show-toplevel")
        self.repository = top is not None
        self.root = Path(top.decode().strip()) if top else folder
        self.left_out: set[str] = set()
        """Files of which a patch should hold what it does not."""

    def revision(self, patch: bytes) -> dict[str, str | None] | None:
        """Commit, and a digest of the code that is not committed."""
        if not self.repository:
            return None
        head = (git(self.root, "rev-parse", "HEAD") or b"").decode().strip()
        return {
            "revision": head or None,
            "diff": digest_of(patch) if patch else None,
        }

    def patch(self, files: Iterable[Path]) -> bytes:
        """What makes a clean checkout this code: changes, and those of `files` that are new.

        Without a repository all of them are.
        """
        inside = {f.relative_to(self.root).as_posix() for f in files if f.is_relative_to(self.root)}
        if not self.repository:
            return self._added(inside)
        new = self._names("ls-files", "--others", "--exclude-standard")
        return self._changes() + self._added(inside & new)

    def _changes(self) -> bytes:
        plain = ("-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false")
        exact = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames")
        names = self._names("diff", "HEAD", "--name-only", "--no-renames")
        names = sorted(name for name in names if name.endswith(KINDS) and not self._secret(name))
        if not names:
            return b""
        literal = ("--literal-pathspecs", *plain, "diff", "HEAD", *exact)
        return git(self.root, *literal, "--", *names) or b""

    def _names(self, *args: str) -> set[str]:
        told = (git(self.root, *args, "-z") or b"").decode(errors="surrogateescape")
        return set(filter(None, told.split("\0")))

    def _secret(self, name: str) -> bool:
        if found := bool(SECRET.search(name)):
            self.left_out.add(name)
        return found

    def _added(self, names: Iterable[str]) -> bytes:
        """A patch that adds these files, but for secrets and very large ones."""
        patch, size = b"", 0
        for name in sorted(name for name in names if not self._secret(name)):
            content = (self.root / name).read_bytes()
            if size + len(content) > LARGEST:
                self.left_out.add(name)
                continue
            size += len(content)
            patch += _added(name, content)
        return patch

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


def _needed(ours: frozenset[Path]) -> set[Path]:
    """Files of jaxdl that training imports, now or later: those loaded and what they name."""
    found = [getattr(m, "__file__", None) for name, m in list(sys.modules.items()) if _own(name)]
    beside = tuple(f"{OWN}/{name}/" for name in records.OUTSIDE)
    start = ours & {Path(file).resolve() for file in found if file}
    start = {file for file in start if not str(file).startswith(beside)}
    needed = ours & reached(start, [OWN.parent])
    # Kernels may lie beside the package, where their names do not lead.
    kernels = {f for top in _own_folders()[1:] for f in ours if f.is_relative_to(top)}
    return {f for f in needed | kernels if not str(f).startswith(beside) and f.stem != "bench"}


def _own(module: str) -> bool:
    return module.partition(".")[0] == jaxdl.__name__


def _searched() -> list[Path]:
    """Where Python looks for modules that are not installed."""
    installed = _installed()
    places = (Path(place or ".").resolve() for place in sys.path)
    return [p for p in places if p.is_dir() and not f"{p}/".startswith(installed)]


def _installed() -> tuple[str, ...]:
    """How paths of installed packages begin."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {place for place in sys.path if any(Path(place or ".").glob("*.dist-info"))}
    return tuple(place.rstrip("/") + "/" for place in places if place)


def _loaded() -> set[Path]:
    """Files of loaded modules that belong to no installed package, experiment files included."""
    installed = _installed()
    names = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    found = (Path(name) for name in names if name and not name.startswith(installed))
    return {file.resolve() for file in found if file.suffix == ".py" and file.is_file()}


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
