"""Which definitions of a program are used, and what of two files counts as a change."""

import pytest

from jaxdl.report.programs import first_change, same_program, used

FILE = b'''"""Words."""
from tools import helper as aid

RATE = 0.5
TABLE = {"a": "Named"}
REGISTRY = make()


class Mover:
    def move(self):
        return inner() * RATE


class Still:
    """Words."""

    def move(self):  # a comment
        return other()


class Named:
    pass


def inner():
    return aid()


def other():
    return RATE


@REGISTRY.add
def registered():
    return None
'''


def test_what_is_reached_by_name():
    names = used([FILE, b"def helper():\n    return deep\n\n\ndef deep():\n    pass\n"], ["Mover"])
    assert {"Mover", "inner", "RATE", "helper", "deep", "registered", "REGISTRY"} <= names
    assert not {"Still", "other", "TABLE", "Named"} & names
    assert {"TABLE", "Named"} <= used([FILE], ["TABLE"])  # names in strings count


def test_an_import_and_all_use_nothing():
    files = [FILE, b"from x import Still\n\n__all__ = ['Still']\n"]
    assert "Still" not in used(files, ["Mover"])
    assert "Still" in used([FILE, b"from x import Still\n\nprint(Still)\n"], ["Mover"])


CHANGES = {
    "a comment": ((b"a comment", b"words"), True, True),
    "a docstring": ((b'"""Words."""', b'"""Others."""'), True, True),
    "an unused definition": ((b"return other()", b"return 2 * other()"), False, True),
    "a used definition": ((b"return inner()", b"return 2 * inner()"), False, False),
    "a constant": ((b"0.5", b"0.25"), False, False),
    "what importing runs": ((b"make()", b"make(2)"), False, False),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_of_a_change_can_move_numbers(case):
    (old, new), same, same_used = CHANGES[case]
    other = FILE.replace(old, new)
    assert other != FILE
    assert same_program(FILE, other) == same
    assert same_program(FILE, other, used([FILE, other], ["Mover"])) == same_used


def test_the_line_shown_is_one_that_can_move_numbers():
    other = FILE.replace(b'"""Words."""', b'"""More\n    words."""', 2).replace(
        b"return other()", b"return 0"
    )
    other = other.replace(b"return aid()", b"return aid() + 1  # more")
    names = used([FILE, other], ["Mover"])
    line, before, after, changes = first_change(FILE, other, names)
    assert (before, after, changes) == ("return aid()", "return aid() + 1", 1)
    assert other.splitlines()[line - 1].startswith(b"    return aid() + 1")
    assert first_change(FILE, other)[1] == "return other()"
    comment = FILE.replace(b"a comment", b"words")
    assert first_change(FILE, comment, names)[2].endswith("# words")


def test_what_is_no_python_has_changes_still():
    assert not same_program(b"a: [", b"b: [") and first_change(b"a: [", b"b: [")[1:3] == (
        "a: [",
        "b: [",
    )
    with pytest.raises(SyntaxError):
        used([b"a: ["], [])
