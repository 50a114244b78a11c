"""Commands in this process: as a shell would see them, and without traces for other tests."""

import logging
from dataclasses import dataclass

import pytest

from jaxdl.cli import main

EXPERIMENT = """
from jaxdl.core import Experiment
from jaxdl.data import Crop, Digits, Scale, Text
from jaxdl.models.gpt import GPT
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW, Constant
from jaxdl.tasks import Classification, LanguageModel
from jaxdl.train import Evaluate, Log, Save


def base():
    return Experiment(
        model=MLP(widths=(16,), classes=10),
        task=Classification(),
        data=Digits(batch=64, eval_batch=120, train_transform=(Scale(0, 16), Crop(1))),
        optim=AdamW(peak_lr=1e-2, schedule=Constant()),
        steps=20,
        hooks=(Log(every=5), Evaluate(every=10), Save(every=10)),
    )


TEXT = {
    "model": GPT(vocab=256, width=8, depth=1, heads=1, seq=32),
    "task": LanguageModel(),
    "data": Text(files=("text.txt",), seq=32, batch=8),
    "steps": 2,
    "hooks": (),
}
ABLATIONS = {"slow": {"optim.peak_lr": 1e-4}, "text": TEXT}
"""


@dataclass
class Told:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """stderr on one line: boxes and wrapping taken away."""
        return " ".join(self.err.replace("│", " ").split())


@pytest.fixture(scope="session")
def logger():
    """The logger as it was: a command sends it to its own stderr, and caplog would see nothing."""
    logs = [logging.getLogger(name) for name in ("jaxdl", "absl")]
    before = [(log.handlers, log.propagate, log.level) for log in logs]

    def restore():
        for log, (handlers, propagate, level) in zip(logs, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
            log.setLevel(level)

    return restore


@pytest.fixture
def jaxdl(capfd, logger):
    """Runs one command."""

    def run(*argv) -> Told:
        capfd.readouterr()
        try:
            code = main([str(a) for a in argv])
        finally:
            logger()
        return Told(code, *capfd.readouterr())

    return run


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with an experiment and a text."""
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(bytes(range(256)) * 16)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, logger):
    """A finished run of exp.py, made by the command line; copy it before you change it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "exp.py").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "exp.py", "--run-dir", "run"]) == 0
    logger()
    return folder / "run"
