"""The code of a run, put back from where it still is, or from its revision and patch."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path

from jaxdl.core import records
from jaxdl.core.records import Code, Passport
from jaxdl.core.repository import digest_of, git, put_back


class Sources:
    """What each file of a run's code said; temporary checkouts last as long as this does."""

    def __init__(self, run: Path, passport: Passport, code: Code):
        self.run, self.passport, self.code = run, passport, code
        self._checkouts: dict[str, Path | None] = {}

    def text(self, place: str, name: str) -> bytes | None:
        """The content of a file that ran; None where it cannot be had any more."""
        content = self._read(Path(self.code.roots[place]), place, name)
        return self._read(self._checkout(place), place, name) if content is None else content

    def on_disk(self, place: str, name: str) -> bool:
        """Whether a file still is where it was, as it was."""
        return self._read(Path(self.code.roots[place]), place, name) is not None

    def _read(self, root: Path | None, place: str, name: str) -> bytes | None:
        file = root and root / name
        if not file or not file.is_file():
            return None
        content = file.read_bytes()
        return content if digest_of(content) == self.code.files[place].get(name) else None

    def _checkout(self, place: str) -> Path | None:
        one = self.code.roots["here"] == self.code.roots["jaxdl"]
        place = "here" if one else place
        if place not in self._checkouts:
            patch = records.PATCH if place == "here" else records.OWN_PATCH
            self._checkouts[place] = self._put_back(place, patch)
        return self._checkouts[place]

    @cached_property
    def _folder(self) -> Path:
        folder = tempfile.mkdtemp(prefix="jaxdl-code-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _put_back(self, place: str, patch: str) -> Path | None:
        told = self.passport.code.get(place) or {}
        revision, file = told.get("revision"), self.run / patch
        changes = file.read_bytes() if file.exists() else b""
        if not revision and not changes:
            return None
        folder = self._folder / place
        folder.mkdir()
        # The run may have been made in another clone; then one here may know the revision.
        for root in (Path(self.code.roots[place]), Path(__file__).parent, Path.cwd()):
            known = root.is_dir() and revision and git(root, "cat-file", "-e", revision) is not None
            if (known or not revision) and put_back(root, revision, changes, folder):
                return folder
        return None
