"""What Python files say: whether two are one program, where they part, what of them is used."""

from __future__ import annotations

import ast
import builtins
import difflib
import io
import re
import sys
import tokenize
from collections.abc import Container, Iterable, Iterator

Names = Container[str]
"""Of definitions that may be used."""


LIBRARIES = sys.stdlib_module_names | {"jax", "flax", "optax", "chex", "numpy"}
"""Packages whose decorators register nothing that `used` would miss."""


class _All:
    def __contains__(self, name: object) -> bool:
        return True


ALL: Names = _All()


def used(files: Iterable[bytes], start: Iterable[str]) -> frozenset[str]:
    """Names that `start` and what importing the files runs may reach, through the definitions.

    Names are all that is compared, those in strings too (`getattr`, registries): it finds too
    many rather than too few. A decorator that is no library's may register what it decorates.

    Raises: SyntaxError for a file that is no Python.
    """
    todo, reach = set(start), dict[str, set[str]]()
    for tree in map(ast.parse, files):
        harmless = _of_libraries(tree)
        for statement in tree.body:
            name = _unit(statement)
            decorators = getattr(statement, "decorator_list", [])
            asked = {n.id for d in decorators for n in ast.walk(d) if isinstance(n, ast.Name)}
            if name and not name.startswith("__") and asked <= harmless:
                reach.setdefault(name, set()).update(_names(statement))
            else:
                todo.update(_names(statement), [name] if name else ())
    found = set()
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= reach.pop(name, set())
    return frozenset(found)


def _of_libraries(tree: ast.Module) -> set[str]:
    """Names that a file has from Python itself or from a numerical library."""
    found = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [(a.name, (a.asname or a.name).partition(".")[0]) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [
                ("." * node.level + (node.module or ""), a.asname or a.name) for a in node.names
            ]
        else:
            continue
        found |= {name for module, name in modules if module.partition(".")[0] in LIBRARIES}
    return found


def same_program(a: bytes | None, b: bytes | None, names: Names = ALL) -> bool:
    """Whether two Python files differ in comments, docstrings and layout only.

    And in definitions outside `names`.
    """
    try:
        return a is not None and b is not None and _bare(a, names) == _bare(b, names)
    except (SyntaxError, ValueError):
        return False


def first_change(a: bytes, b: bytes, names: Names = ALL) -> tuple[int, str, str, int]:
    """Line number in b of the first change, what it says in a and in b, and how many changes.

    Changes of comments, of docstrings and of definitions outside `names` count only where there
    are no others.
    """
    return (
        _first_change(_telling(a, names), _telling(b, names))
        or _first_change(_telling(a), _telling(b))
        or _first_change(_lines(a), _lines(b))
        or (1, "", "", 0)
    )


def _first_change(left: list[str], right: list[str]) -> tuple[int, str, str, int] | None:
    # Empty lines are where something was left out: they are no change, and keep the numbers.
    left_at, right_at = ([i for i, line in enumerate(x) if line.strip()] for x in (left, right))
    left, right = [left[i] for i in left_at], [right[i] for i in right_at]
    codes = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    changes = [code for code in codes if code[0] != "equal"]
    if not changes:
        return None
    _, i, to_i, j, to_j = changes[0]
    line = right_at[j] if j < len(right_at) else (right_at or [-1])[-1] + 1
    return line + 1, _joined(left[i:to_i]), _joined(right[j:to_j]), len(changes)


def _joined(lines: list[str]) -> str:
    shown = [line.strip() for line in lines]
    return shown[0] + (f" ... ({len(shown)} lines)" if len(shown) > 1 else "") if shown else ""


def _lines(content: bytes) -> list[str]:
    return content.decode(errors="replace").splitlines()


def _telling(content: bytes, names: Names = ALL) -> list[str]:
    """The lines of a file, with nothing where it cannot move a number."""
    lines = _lines(content)
    try:
        tree = ast.parse(content)
        comments = [t for t in _tokens(content) if t.type == tokenize.COMMENT]
    except (SyntaxError, ValueError):
        return lines
    for token in comments:
        row, column = token.start
        lines[row - 1] = lines[row - 1][:column].rstrip()
    unused = [s for s in tree.body if (name := _unit(s)) and name not in names]
    for node in (*unused, *filter(_is_docstring, ast.walk(tree))):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        lines[first - 1 : node.end_lineno] = [""] * (node.end_lineno - first + 1)
    return lines


def _tokens(content: bytes) -> Iterator[tokenize.TokenInfo]:
    return tokenize.tokenize(io.BytesIO(content).readline)


def _bare(content: bytes, names: Names) -> str:
    tree = ast.parse(content)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_docstring(s)] or [ast.Pass()]
    tree.body = [s for s in tree.body if not (name := _unit(s)) or name in names]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def _unit(statement: ast.stmt) -> str:
    """The one name that a module's statement defines and does nothing else; "" for any other."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return statement.name
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
        return ""
    calls = any(isinstance(node, ast.Call) for node in ast.walk(statement.value))
    name = "" if calls else next(iter(_defined(statement)), "")
    return name if len(_defined(statement)) == 1 else ""


def _defined(statement: ast.stmt) -> list[str]:
    """The names that a module's statement defines, imports left out."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else []
    return [name for target in targets for name in _names(target)]


def _names(node: ast.AST) -> Iterator[str]:
    """The names that a piece of code mentions; `__all__` and plain imports use nothing."""
    if _is_docstring(node):
        return
    if isinstance(node, ast.Assign) and "__all__" in _defined(node):
        return
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.alias):
        yield from node.name.split(".") if node.asname else ()
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from re.findall(r"\w+", node.value)
    for child in ast.iter_child_nodes(node):
        yield from _names(child)
