"""What the user did wrong, said so that it can be mended."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from the user; the command line prints it without a traceback and exits 2."""


def suggest(word: str, options: Iterable[str]) -> str:
    """The tail of an unknown-name message: the nearest of `options`, then all of them."""
    options = sorted(options)
    close = difflib.get_close_matches(word, options, n=1)
    nearest = f"did you mean {close[0]!r}? " if close else ""
    return nearest + ("choose from: " + ", ".join(options) if options else "there is none")
