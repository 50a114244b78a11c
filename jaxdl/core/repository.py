"""Git, as far as a run's code needs it: what is there, and a revision put back."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def git(
    folder: Path, *args: str, env: Mapping[str, str] | None = None, given: bytes | None = None
) -> bytes | None:
    """What git says in `folder`; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *args],
            capture_output=True,
            timeout=60,
            cwd=folder,
            check=False,
            env=os.environ | dict(env or {}),
            input=given,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def put_back(repository: Path, revision: str | None, patch: bytes, folder: Path) -> bool:
    """Makes the empty `folder` a checkout of `revision` (None: nothing) with `patch` applied.

    The repository's own index and work tree stay as they are. False where it cannot be done.
    """
    if revision:
        index = {"GIT_INDEX_FILE": f"{folder}.index"}
        if git(repository, "read-tree", revision, env=index) is None:
            return False
        if git(repository, "checkout-index", "-af", f"--prefix={folder}/", env=index) is None:
            return False
    if not patch:
        return True
    # Inside another repository git would leave out what is not below its own root.
    alone = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return git(folder, "apply", "--whitespace=nowarn", "-", env=alone, given=patch) is not None


def digest_of(content: bytes) -> str:
    """16 hex digits that name a file's content."""
    return hashlib.sha256(content).hexdigest()[:16]
