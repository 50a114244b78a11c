"""Objects by name: `module:qualname`, where the module may also be a file, `path/to/file.py`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxdl.core.errors import InputError, suggest


@contextmanager
def blame(file: Path) -> Iterator[None]:
    """Turns whatever goes wrong inside into an InputError that says which line of `file` did it."""
    try:
        yield
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines.append(error.lineno)
        where = f"{_shown(file)}:{lines[-1]}" if lines else _shown(file)
        raise InputError(f"{where}: {_last_line(error)}") from error


def load_file(path: str | Path) -> ModuleType:
    """The module that a Python file defines; the file runs once per place and content.

    Raises: InputError where the file is missing or fails, with the line that failed.
    """
    file = Path(path).resolve()
    if not file.is_file():
        here = suggest(file.name, (f.name for f in file.parent.glob("*.py")))
        raise InputError(f"{path} does not exist; in {_shown(file.parent)}: {here}")
    source = file.read_bytes()
    digest = hashlib.sha256(str(file).encode() + b"\0" + source).hexdigest()[:12]
    name = f"jaxdl_file_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}_{digest}"
    if name not in sys.modules:
        module = ModuleType(name)
        vars(module).update(__file__=str(file), __jaxdl_file__=file)
        # Dataclasses and type hints look their module up while the file still runs.
        sys.modules[name] = module
        try:
            with blame(file):
                exec(compile(source, file, "exec", dont_inherit=True), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def home(obj: Any) -> tuple[str, str]:
    """Module and qualified name of a module-level class or function.

    Raises: InputError with the remedy where `obj` cannot be found again by that name.
    """
    if isinstance(obj, partial):
        raise InputError("a functools.partial does not compare; wrap it in Part(cls, ...) instead.")
    module, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not callable(obj) or not module or not qualname:
        raise InputError(f"{obj!r} is neither a class nor a function with a name.")
    if inspect.ismethod(obj):
        raise InputError(f"{qualname} is a bound method; move it to module level as a function.")
    if qualname.endswith("<lambda>"):
        raise InputError(
            "a lambda has no name to find it by; move it to module level as a function."
        )
    if "<locals>" in qualname:
        raise InputError(
            f"{qualname} is made inside a function; move it to module level, "
            "or wrap a module-level class or function in Part(cls, ...)."
        )
    if _get(sys.modules.get(module), qualname) is not obj:
        raise InputError(f"{module}:{qualname} is not this object; define it at module level.")
    return module, qualname


def name_of(obj: Any) -> str:
    """The `module:qualname` that `resolve` turns back into `obj`; a file counts as a module.

    Raises: InputError with the remedy where there is none.
    """
    module, qualname = home(obj)
    if module == "__main__":
        raise InputError(
            f"{qualname} lives in __main__; move it to a module or an experiment file."
        )
    file = getattr(sys.modules[module], "__jaxdl_file__", None)
    return f"{_shown(file) if file else _public(obj, module, qualname)}:{qualname}"


def short_name_of(obj: Any) -> str:
    """The shortest name a user may type for `obj`: `jaxdl.optim:SAM`, not `jaxdl.optim.sam:SAM`."""
    module, _, qualname = name_of(obj).rpartition(":")
    parts = module.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if _get(sys.modules.get(package), qualname) is obj:
            return f"{package}:{qualname}"
    return f"{module}:{qualname}"


def resolve(name: str) -> Any:
    """The object called `module:qualname` or `path/to/file.py:qualname`.

    Raises: InputError with the nearest names where there is none.
    """
    module, _, qualname = name.rpartition(":")
    if not module or not qualname:
        raise InputError(f"{name!r} is not of the form module:qualname.")
    found = _load_named_file(module) if module.endswith(".py") else _import(module)
    obj = _get(found, qualname)
    if obj is None:
        raise InputError(f"{module} has no {qualname!r}; {_nearest(qualname, vars(found))}")
    return obj


def _get(obj: Any, qualname: str) -> Any | None:
    for part in qualname.split("."):
        obj = getattr(obj, part, None)
    return obj


def _public(obj: Any, module: str, qualname: str) -> str:
    # `jax._src.nn.functions:relu` moves between releases, `jax.nn:relu` does not.
    parts = [part for part in module.split(".") if not part.startswith("_")]
    if len(parts) < module.count(".") + 1:
        for end in range(len(parts), 0, -1):
            public = ".".join(parts[:end])
            if _get(sys.modules.get(public), qualname) is obj:
                return public
    return module


def _load_named_file(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise InputError(
            f"{path} does not exist below {Path.cwd()}; run from the folder that {path} starts in."
        )
    return load_file(path)


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module}.".startswith(f"{missing}."):
            raise InputError(f"{module} cannot be imported: {_last_line(error)}") from error
        parent = missing.rpartition(".")[0]
        places = getattr(sys.modules.get(parent), "__path__", ()) if parent else None
        names = [f"{parent}.{m.name}".lstrip(".") for m in pkgutil.iter_modules(places)]
        raise InputError(f"there is no module {missing!r}; {_nearest(missing, names)}") from error
    except Exception as error:
        raise InputError(f"{module} cannot be imported: {_last_line(error)}") from error


def _nearest(word: str, names: Any) -> str:
    return suggest(word, difflib.get_close_matches(word, list(names), n=5, cutoff=0.4))


def _shown(file: Path) -> str:
    here = Path.cwd().resolve()
    return (file.relative_to(here) if file.is_relative_to(here) else file).as_posix()


def _last_line(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
