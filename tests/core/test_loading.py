import json
import os
import sys
from pathlib import Path

import pytest

from jaxdl.core import InputError, dump, load, load_experiment
from jaxdl.core.loading import load_file, variants

FILE = """
from dataclasses import dataclass
from collections.abc import Callable
from jaxdl.core import Experiment, Part


@dataclass(frozen=True)
class Model:
    depth: int = 2
    act: Callable = abs


@dataclass(frozen=True)
class SGD:
    lr: float = 0.1


def double(x, *, by=2):
    return by * x


def base():
    model = Model(act=Part(double, by=3))
    return Experiment(model=model, task=None, data=None, optim=SGD(), steps=10)


ABLATIONS = {
    "deep": {"model.depth": 24},
    "bad": {"model.dept": 24},
    "lambda": {"model.act": lambda x: x},
}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exps").mkdir()
    (tmp_path / "exps" / "study.py").write_text(FILE)
    return tmp_path


def write(folder, name, text):
    (folder / "exps" / name).write_text(text)
    return f"exps/{name}"


def message(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


def test_base_needs_no_variant(folder):
    exp, name = load_experiment("exps/study.py")
    assert (exp.model.depth, exp.steps, name) == (2, 10, "base")
    assert load_experiment("exps/study.py:base") == (exp, "base")
    assert load_experiment(f"{folder}/exps/study.py")[0] == exp


def test_a_variant_then_the_sets(folder):
    exp, name = load_experiment("exps/study.py:deep")
    assert (exp.model.depth, name) == (24, "deep")
    exp, _ = load_experiment("exps/study.py:deep", ["model.depth=3", "optim.lr=1"])
    assert exp.model.depth == 3 and repr(exp.optim.lr) == "1.0"


def test_variants_come_in_order_of_the_file(folder):
    assert variants("exps/study.py") == ["base", "deep", "bad", "lambda"]
    plain = write(folder, "plain.py", "def base(): pass")
    assert variants(plain) == ["base"]


def test_a_file_runs_once_per_content(folder):
    path = write(folder, "count.py", "import sys\nsys.ran = getattr(sys, 'ran', 0) + 1\n")
    try:
        first = load_file(path)
        assert load_file(Path(path).resolve()) is first and sys.ran == 1
        assert sys.modules[first.__name__] is first
        write(folder, "count.py", "import sys\nsys.ran += 10\n")
        assert load_file(path) is not first and sys.ran == 11
    finally:
        del sys.ran


def test_a_file_does_not_inherit_our_future_imports(folder):
    path = write(folder, "future.py", "def f(x: int): pass\nkind = f.__annotations__['x']\n")
    assert load_file(path).kind is int


@pytest.mark.row("C-004")
def test_objects_of_a_file_survive_json(folder):
    exp, _ = load_experiment("exps/study.py:deep")
    data = json.loads(json.dumps(dump(exp)))
    assert data["model"]["$"] == "exps/study.py:Model"
    assert data["model"]["act"]["target"] == {"$ref": "exps/study.py:double"}
    assert load(data) == exp


def test_a_file_above_the_working_folder_is_named_by_its_whole_path(folder):
    (folder / "elsewhere").mkdir()
    os.chdir(folder / "elsewhere")
    exp, _ = load_experiment("../exps/study.py")
    assert dump(exp)["optim"]["$"] == f"{folder.resolve().as_posix()}/exps/study.py:SGD"
    assert load(dump(exp)) == exp


def test_json_read_from_another_folder_says_where_to_go(folder):
    data = dump(load_experiment("exps/study.py")[0])
    (folder / "elsewhere").mkdir()
    os.chdir(folder / "elsewhere")
    text = message(load, data["optim"])
    assert text == (
        f"SGD: exps/study.py does not exist below {folder.resolve()}/elsewhere; "
        "run from the folder that exps/study.py starts in."
    )


def test_a_missing_file_names_its_neighbours(folder):
    write(folder, "other.py", "")
    text = message(load_experiment, "exps/studdy.py:deep")
    assert text == (
        "exps/studdy.py does not exist; in exps: "
        "did you mean 'study.py'? choose from: other.py, study.py"
    )
    assert message(load_experiment, "no/x.py").endswith("there is none")
    assert "did you mean 'study.py'" in message(load_experiment, "exps/study")


def test_an_unknown_variant_names_the_nearest(folder):
    assert message(load_experiment, "exps/study.py:deeep") == (
        "exps/study.py has no variant 'deeep'; did you mean 'deep'? "
        "choose from: bad, base, deep, lambda"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ndef base(:\n", "exps/broken.py:2: SyntaxError: invalid syntax"),
        ("\n\nimport jaxx", "exps/broken.py:3: ModuleNotFoundError: No module named 'jaxx'"),
        ("def f():\n    1 / 0\nf()", "exps/broken.py:2: ZeroDivisionError: division by zero"),
        ("from jaxdl.core import Part\nPart(3)", "exps/broken.py:2: 3 is neither a class nor a"),
        ("def base():\n    return x", "exps/broken.py:2: NameError: name 'x' is not defined"),
        ("", "exps/broken.py defines no base(); write `def base() -> Experiment: ...`."),
        (
            "def base(): return 3",
            "exps/broken.py: base() returned 3; it must return an Experiment.",
        ),
        ("ABLATIONS = ['a']", "exps/broken.py: ABLATIONS must map names to edits: {'deep': "),
        ("ABLATIONS = {'a': 3}", "exps/broken.py: ABLATIONS must map names to edits: {'deep': "),
        *(
            (f"ABLATIONS = {{{name!r}: {{}}}}", f"exps/broken.py: ABLATIONS has {name!r}, which ca")
            for name in ("a/b", "a:b", "a,b", "", "..", "-x", "a b", "a\n", 3)
        ),
    ],
)
def test_a_broken_file_says_where(folder, text, expected):
    path = write(folder, "broken.py", text)
    assert message(load_experiment, path).startswith(expected)


def test_a_file_that_fails_leaves_no_module_and_runs_again(folder):
    path = write(folder, "half.py", "x = 1 / 0")
    for _ in range(2):
        assert "ZeroDivisionError" in message(load_file, path)
    assert not any("half" in name for name in sys.modules if name.startswith("jaxdl_file_"))


def test_postponed_annotations_are_checked(folder):
    write(folder, "late.py", "from __future__ import annotations\n" + FILE)
    text = message(load_experiment, "exps/late.py", ["model.depth=x"])
    assert text == "Experiment.model.depth: expected int, got 'x' (str)."


def test_a_bad_variant_says_which(folder):
    text = message(load_experiment, "exps/study.py:bad")
    assert text.startswith(
        "exps/study.py:bad: Experiment.model: Model has no field 'dept'; did you"
    )


def test_a_bad_set_keeps_its_path(folder):
    text = message(load_experiment, "exps/study.py", ["optim.rate=3"])
    assert text == "Experiment.optim: SGD has no field 'rate'; choose from: lr"


def test_what_does_not_serialise_is_refused_at_load(folder):
    text = message(load_experiment, "exps/study.py:lambda")
    assert text.startswith("Experiment.model.act: a lambda has no name")
