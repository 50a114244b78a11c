"""The bit-identical mode: one hash of the whole state and the metrics, wherever a run has been.

Run:    python tests/train/test_deterministic.py     # the table of what the slow tests found
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl import parallel
from jaxdl.core.change import change
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.models.gpt import GPT
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet
from jaxdl.models.vit import ViT
from jaxdl.optim import SAM, SGD, Adafactor, AdamW, Constant, Lion
from jaxdl.tasks import Adversarial, LanguageModel
from jaxdl.train import build, evaluate, training_batches
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.deterministic import _Alone

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / "build" / "deterministic"
small = load_file(__file__.replace("test_deterministic", "small"))
laws = load_file(str(ROOT / "tests" / "parallel" / "laws.py"))
STEPS = 4
PROCESSES = 4
WORKER = __file__.replace("test_deterministic", "one_of_four")


@dataclass(frozen=True)
class Seldom(Adversarial):
    """The generator moves in every second update."""

    def players(self, model):
        critic, generator = super().players(model)
        return critic, replace(generator, every=2)


def experiment(model=None, optim=None, **fields):
    """Dropout, augmentation, BatchNorm per virtual shard; eight virtual shards of four."""
    exp = replace(small.base(), deterministic_shards=8, hooks=(), ema=0.0, **fields)
    exp = change(exp, {"data.batch": 32})
    return replace(exp, model=model or exp.model, optim=optim or exp.optim)


def adversarial(**fields):
    exp = replace(small.gan(), deterministic_shards=8, hooks=(), **fields)
    return change(exp, {"data.batch": 32})


PLAIN = Constant()
ALL = experiment(
    optim=AdamW(peak_lr=1e-2, decay=0.01, clip=0.5, schedule=PLAIN, sam=SAM(0.1)), accumulate=2
)
LANGUAGE = GPT(vocab=250, width=32, depth=2, heads=4, seq=16, dropout=0.1)
TEXT = experiment(LANGUAGE, task=LanguageModel(), data=laws.Random(kind="tokens"))
IMAGES = ResNet(stages=(1,), width=8)
EXPERIMENTS = {
    "net sgd clip": experiment(optim=SGD(peak_lr=0.1, clip=0.5)),
    "net adamw ema": replace(experiment(), ema=0.9),
    "net lion bf16": replace(experiment(optim=Lion()), precision="bf16"),
    "net adamw f16": replace(experiment(), precision="f16"),
    "net adamw sam clip accumulate": ALL,
    "resnet sgd clip ema": replace(experiment(IMAGES, SGD(peak_lr=0.1, clip=1.0)), ema=0.9),
    "resnet sam": experiment(IMAGES, SGD(peak_lr=0.1, sam=SAM())),
    "resnet adamw bf16": replace(experiment(IMAGES), precision="bf16"),
    "vit adamw clip": experiment(ViT(4, 32, 2, 4, 10), AdamW(clip=1.0)),
    "gpt adamw clip ema": replace(TEXT, optim=AdamW(clip=1.0), ema=0.9),
    "gpt adafactor bf16": replace(TEXT, optim=Adafactor(min_factored=16), precision="bf16"),
    "gpt sam accumulate": replace(TEXT, optim=SGD(0.1, sam=SAM()), accumulate=2),
    "gan adam ema": adversarial(),
    "gan seldom": adversarial(task=Seldom()),
}
MOVES = {
    "1": [{}],
    "2": [{"data": 2}],
    "4": [{"fsdp": 4}],
    "8": [{"data": 8}],
    "4x2": [{"fsdp": 4, "data": 2}],
    "8 2 4": [{"data": 8}, {"fsdp": 2}, {"data": 4}],
}
"""Meshes that a run passes through, from one to the next by a checkpoint."""
BY_FOUR, LEAVING_FOUR = "4 processes", "4 processes 2"


def started(exp, mesh):
    count = int(np.prod(list(mesh.values())))
    return build(replace(exp, mesh=mesh), jax.devices()[:count])


def digest(*trees):
    """Of every leaf, its path and shape."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def trained(exp, meshes, folder):
    """Digests of the last state and of the metrics of every update since the checkpoint in
    `folder`, if there is one."""
    state, told, n = None, [], 0
    ends = [round(STEPS * (i + 1) / len(meshes)) for i in range(len(meshes))]
    for mesh, end in zip(meshes, ends, strict=True):
        program = started(exp, mesh)
        checkpoints = Checkpoints(folder)
        state = checkpoints.restore(program.abstract) or program.init()
        get = training_batches(program)
        for n in range(int(state.step), end):
            state, metrics = program.step(state, get(n))
            program.settle((state, metrics))
            told.append(digest(dict(metrics)))
        for leaf, like in zip(*map(jax.tree.leaves, (state, program.abstract)), strict=True):
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
        if len(meshes) > 1 and end < STEPS:
            checkpoints.save(end, state, {}, {})
        checkpoints.close()
    assert int(state.step) == STEPS > int(state.skipped)  # float16 begins with too large a scale
    return [digest(parallel.fetched(state)), *told]


def test_every_mesh_and_every_move_ends_in_the_same_bits(tmp_path):
    moves = "1", "4x2", "8 2 4"
    found = {move: trained(ALL, MOVES[move], tmp_path / move) for move in moves}
    assert all(digests == found["1"] for digests in found.values()), found


@pytest.fixture(scope="module")
def by_four(tmp_path_factory):
    """What four processes of two devices find in each row, and their checkpoints half way."""
    folder = tmp_path_factory.mktemp("four")
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"localhost:{server.getsockname()[1]}"
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, WORKER, str(folder), coordinator]
    workers = [
        subprocess.Popen([*command, str(i)], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for i in range(PROCESSES)
    ]
    ends = [(worker.communicate()[1], worker.returncode) for worker in workers]
    assert all(code == 0 for _, code in ends), "\n".join(words[-2000:] for words, _ in ends)
    return folder, json.loads((folder / "found.json").read_text())


def found_in(folder, meshes):
    """What `trained` finds of every row, in a folder for each."""
    return {row: trained(exp, meshes, folder / row) for row, exp in EXPERIMENTS.items()}


@pytest.mark.slow
@pytest.mark.multihost
@pytest.mark.parametrize("row", EXPERIMENTS)
def test_a_row_of_the_matrix_has_one_hash(row, by_four, tmp_path):
    exp, (folder, by_processes) = EXPERIMENTS[row], by_four
    cells = {move: trained(exp, MOVES[move], tmp_path / move) for move in MOVES}
    cells[BY_FOUR] = by_processes[row]
    state, *last = trained(exp, [{"data": 2}], folder / row)
    cells[LEAVING_FOUR] = [state, *by_processes[row][1 : STEPS // 2 + 1], *last]
    found = {move: digest(np.array(digests)) for move, digests in cells.items()}
    FOUND.mkdir(parents=True, exist_ok=True)
    (FOUND / f"{row.replace(' ', '-')}.json").write_text(json.dumps({row: found}))
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
def test_programs_that_each_device_compiles_for_itself_find_the_same_bits(tmp_path, monkeypatch):
    """As on accelerators; on CPU one device runs the programs of all."""
    exp = EXPERIMENTS["net sgd clip"]
    one = trained(exp, MOVES["1"], tmp_path / "one")
    init = _Alone.__init__

    def real(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._emulated = False

    monkeypatch.setattr(_Alone, "__init__", real)
    assert trained(exp, MOVES["4x2"], tmp_path / "eight") == one


def test_the_numbers_are_those_of_plain_mode_but_for_rounding():
    """Where nothing is drawn and nothing is taken over a batch."""
    exp = experiment(MLP(widths=(16,), classes=10), SGD(peak_lr=0.1))
    losses = []
    for shards in (0, 8):
        program = started(replace(exp, deterministic_shards=shards), {"data": 2})
        state, get = program.init(), training_batches(program)
        for n in range(3):
            state, metrics = program.step(state, get(n))
            program.settle((state, metrics))
        values = {name: metric.compute() for name, metric in metrics.items()}
        losses.append((values, jax.device_get(state.params), evaluate(program, state, "valid")))
    for one, other in zip(*map(jax.tree.leaves, losses), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


REFUSED = {
    "tensors": ({"mesh": {"model": 2, "data": 4}}, r"mesh.model=2.* use mesh.data=8"),
    "collectives": ({"collectives": "explicit"}, "set collectives=automatic"),
    "shards": ({"deterministic_shards": 12}, "12 does not divide over 8 devices; try 8 or 16"),
    "few shards": ({"deterministic_shards": 4}, "4 does not divide over 8 devices; try 8"),
    "batch": ({"data.batch": 40, "accumulate": 2}, r"batch=40 .* 2 micro-batches; try 32 or 48"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_depend_on_the_mesh_is_refused(case):
    edits, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        build(change(experiment(), edits))


def test_the_step_is_shaped_like_the_plain_one_and_refuses_to_be_lowered():
    shapes = []
    for shards in (0, 8):
        program = started(replace(ALL, deterministic_shards=shards), {"data": 2})
        state, metrics = program.step.eval_shape(program.abstract, program.batch)
        shapes.append((metrics.layout, jax.tree.map(lambda x: (x.shape, x.dtype), state)))
    assert shapes[0] == shapes[1]
    with pytest.raises(InputError, match="deterministic_shards=0"):
        program.step.lower(program.abstract, program.batch)


if __name__ == "__main__":
    MOVES |= dict.fromkeys((BY_FOUR, LEAVING_FOUR))
    print(f"{'':32}" + "".join(f"{move:>18}" for move in MOVES))
    for file in sorted(FOUND.glob("*.json")):
        for row, cells in json.loads(file.read_text()).items():
            print(f"{row:32}" + "".join(f"{cells[move]:>18}" for move in MOVES))
