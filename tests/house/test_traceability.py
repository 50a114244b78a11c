"""TRACEABILITY.md: every bullet of the seven phases is there, and no link in it is dead."""

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tests" / "TRACEABILITY.md"
BULLETS = {"1": 5, "2": 5, "3": 5, "4": 5, "5": 5, "6": 5, "7": 5}


def rows():
    lines = PAGE.read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return cells[2:]


def test_every_bullet_of_every_phase_is_there():
    assert Counter(phase for phase, *_ in rows()) == BULLETS
    assert len({bullet for _, bullet, *_ in rows()}) == sum(BULLETS.values())


def test_no_link_is_dead():
    for _, bullet, where, test in rows():
        places = re.findall(r"`([^`]+)`", where)
        assert places or where == "open", f"{bullet}: say where it is, or 'open'"
        for place in places:
            assert (ROOT / place).exists(), f"{bullet}: there is no {place}"
        links = re.findall(r"`([^`:]+)::(test_\w+)`", test)
        assert ", ".join(f"`{file}::{name}`" for file, name in links) == test, f"{bullet}: {test}"
        assert links or where.startswith("open"), f"{bullet}: nothing proves it"
        for file, name in links:
            tree = ast.parse((ROOT / file).read_text())
            names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
            assert name in names, f"{bullet}: {file} has no {name}"
