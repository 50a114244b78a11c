"""`jaxdl data`."""

from __future__ import annotations

from typing import Annotated, Literal

import rich
import tyro
from rich.table import Table

from jaxdl.cli import screen
from jaxdl.core.errors import InputError
from jaxdl.data.catalog import ENTRIES
from jaxdl.data.fetch import get, place

Action = Annotated[tyro.conf.Positional[Literal["list", "get"]], tyro.conf.arg(metavar="list|get")]
Names = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME ...]")]


def data(action: Action, names: Names = (), json: screen.Flag = False) -> int:
    """List the data sets known by name, or get some: fetched, checked and prepared.

    Example: jaxdl data get mnist

    They go into $JAXDL_DATA, or data/ in the working directory. What is there already is left
    alone.

    Args:
        action: what to do.
        names: data sets to get.
        json: print one JSON object per data set.
    """
    if action == "list":
        return _list(names, json)
    if not names:
        raise InputError(f"name the data sets to get: {', '.join(ENTRIES)}.")
    for name in names:
        fetched = get(name)
        if json:
            screen.print_json({"name": name, "fetched": fetched, "place": str(place(name))})
        else:
            print(f"{name}: {'now' if fetched else 'already'} in {place(name)}")
    return 0


def _list(names: tuple[str, ...], json: bool) -> int:
    if names:
        raise InputError("`jaxdl data list` takes no names; did you mean `jaxdl data get`?")
    shown = Table("name", "", "what", box=None, pad_edge=False)
    for name, entry in ENTRIES.items():
        source = f"{entry.client} {entry.package.partition(' ')[0]}" if entry.client else "by hand"
        there = place(name).exists()
        if json:
            told = {"name": name, "there": there, "place": str(place(name)), "source": source}
            screen.print_json(told | {"about": entry.about})
        shown.add_row(name, "[green]there[/green]" if there else "", f"{entry.about}; {source}")
    if not json:
        rich.print(shown)
    return 0
