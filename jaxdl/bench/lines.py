"""Which line of the experiment's or jaxdl's code the operations of a compiled module come from."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

from jaxdl import kernels

FIELD = re.compile(r"(\w+)=(\d+)")
OURS = Path(__file__).parents[1]
KERNELS = Path(kernels.__file__).parent
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def lines(hlo: str) -> dict[int, str]:
    """`file:line` by the `stack_frame_id` of instructions in the text of a compiled module.

    Of the calls that led to an operation it is the innermost in a file of jaxdl or of the user:
    frames of jax, flax and other libraries are left out, and those inside a kernel, which is the
    work of the line that calls it. Without an entry where there is no such frame.
    """
    files = {i: Path(name.strip('"')) for i, name in _table(hlo, "FileNames").items()}
    places = {i: _fields(text) for i, text in _table(hlo, "FileLocations").items()}
    frames = {i: _fields(text) for i, text in _table(hlo, "StackFrames").items()}
    # The first frame has no caller; some versions of XLA number callers from one too many.
    nobody = frames.get(1, {}).get("parent_frame_id", 0)
    found: dict[int, str] = {}
    for i, frame in sorted(frames.items()):  # callers first
        place = places.get(frame.get("file_location_id", 0), {})
        path = files.get(place.get("file_name_id", 0))
        caller = found.get(frame.get("parent_frame_id", nobody) - nobody)
        line = f"{_shown(path)}:{place.get('line', 0)}" if path and _counts(path) else caller
        if line:
            found[i] = line
    return found


def _counts(path: Path) -> bool:
    if path.is_relative_to(OURS):
        return not path.is_relative_to(KERNELS)
    return not any(map(path.is_relative_to, (KERNELS, *LIBRARIES)))


def _shown(path: Path) -> Path:
    """As short as is clear: from the working directory, or from the folder of the package."""
    for root in (OURS.parent, Path.cwd()):
        if path.is_relative_to(root):
            return path.relative_to(root)
    return path


def _table(hlo: str, name: str) -> dict[int, str]:
    """The numbered rows under a heading."""
    found = re.search(rf"^{name}\n((?:\d+ .*\n)+)", hlo, re.M)
    rows = (row.partition(" ") for row in found[1].splitlines()) if found else ()
    return {int(number): text for number, _, text in rows}


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in FIELD.findall(text)}
