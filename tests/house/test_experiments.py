"""Every experiment file is a lab note whose variants load and survive a round trip."""

import ast
import difflib
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def is_experiment(path: Path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "base"
        for node in ast.parse(path.read_text()).body
    )


FILES = sorted(p for p in (ROOT / "experiments").rglob("*.py") if is_experiment(p))
experiment = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(ROOT / "experiments").as_posix()
)


def test_there_are_experiments():
    assert ROOT / "experiments" / "quickstart.py" in FILES


@experiment
def test_every_variant_loads_and_survives_a_round_trip(path):
    from jaxdl.core import dump, load, load_experiment
    from jaxdl.core.loading import variants

    names = list(variants(str(path)))
    assert len(names) >= 3, f"an experiment compares: give ABLATIONS at least three, not {names}"
    for name in names:
        loaded, variant = load_experiment(f"{path}:{name}")
        assert variant == name
        assert load(json.loads(json.dumps(dump(loaded)))) == loaded, name


@experiment
def test_docstring_is_a_lab_note(path):
    note = ast.get_docstring(ast.parse(path.read_text())) or ""
    missing = [word for word in ("Expect", "Run:") if word not in note]
    assert not missing, f"the docstring of {path.name} lacks {missing}"
    assert any(digit in note for digit in "0123456789"), "expected numbers are numbers"
    times, machines = ("second", "minute", "hour", " s ", " min", " h "), ("CPU", "GPU", "TPU")
    assert any(word in note for word in times), "say how long it takes"
    assert any(word in note for word in machines), "say on which hardware"


class StopAfter:
    """A hook that ends a run after so many updates."""

    def __init__(self, updates):
        self.updates = updates

    def __call__(self, step, state, metrics):
        from jaxdl.core import Stop

        if step == self.updates:
            raise Stop("enough for a test")

    def close(self):
        pass


@pytest.mark.slow
@experiment
def test_every_variant_trains_and_evaluates(path, tmp_path, monkeypatch, fetched):
    from jaxdl.core import load_experiment
    from jaxdl.core.loading import variants
    from jaxdl.train import fit

    monkeypatch.chdir(ROOT)  # where the data of some lie
    needed = re.findall(r"jaxdl data get (\w+)", path.read_text())
    monkeypatch.setenv("JAXDL_DATA", str(fetched(*needed)))
    for name in variants(str(path)):
        exp, _ = load_experiment(f"{path}:{name}")
        result = fit(exp, tmp_path / name, watch=lambda program, run: [StopAfter(3)]).result
        assert (result.status, result.steps) == ("stopped", 3)
        split, metric = exp.task.primary.split("/")
        assert np.isfinite(result.metrics[split][metric]), name


def test_quickstart_resolves_to_the_golden_configuration():
    golden = runpy.run_path(str(Path(__file__).with_name("golden.py")))
    kept, new = golden["GOLDEN"], golden["resolved"]()
    old = kept.read_text() if kept.exists() else ""
    diff = "".join(
        difflib.unified_diff(old.splitlines(True), new.splitlines(True), "golden", "now")
    )
    assert old == new, f"{diff}\nIf this was meant: python tests/house/golden.py"
