"""Checkpoints: asynchronous, checked, pruned, and moved between device counts."""

import json
import shutil
import threading
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxdl.core.change import change
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.train import Log, Save, build, checkpoint, fit, leaves
from jaxdl.train.checkpoint import MANIFEST, SMALL, Checkpoints

small = load_file(__file__.replace("test_checkpoint", "small"))
pytestmark = pytest.mark.usefixtures("shared_programs")
ONE = jax.devices()[:1]


@pytest.fixture(scope="module", autouse=True)
def both_formats():
    """Small enough that the kernel of these networks is Orbax's, and the rest is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves, "SMALL", 2**10)
        yield


@pytest.fixture(scope="module")
def exp():
    return small.base()


@pytest.fixture(scope="module")
def program(exp):
    return build(exp, ONE)


@pytest.fixture(scope="module")
def state(program):
    return program.init()


@pytest.fixture(scope="module")
def whole(exp, tmp_path_factory):
    place = tmp_path_factory.mktemp("checkpoint") / "run"
    fitted = fit(exp, place, devices=ONE)
    return place, fitted.result


@pytest.fixture(scope="module")
def cut(exp, tmp_path_factory):
    """A run that lost its last sitting: checkpoints 20, 30 and 35, of which 20 is the best."""
    place = tmp_path_factory.mktemp("cut") / "run"
    stop = small.watch(small.At(35, small.send(15)))
    assert fit(exp, place, watch=stop, devices=ONE).code == 75
    assert Checkpoints(place / "checkpoints").steps() == [20, 30, 35]
    return place


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


DAMAGES = {
    "flipped byte": (lambda folder: flip(largest(folder / "state")), "has changed"),
    "truncated file": (lambda folder: truncate(largest(folder / "state")), "has changed"),
    "flipped small byte": (lambda folder: flip(folder / SMALL), "small.safetensors has changed"),
    "missing file": (lambda folder: largest(folder / "state").unlink(), "is missing"),
    "missing manifest": (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
    "truncated manifest": (lambda folder: truncate(folder / MANIFEST), "unreadable manifest"),
    "empty manifest": (lambda folder: (folder / MANIFEST).write_text(""), "unreadable manifest"),
    "a list as manifest": (lambda folder: (folder / MANIFEST).write_text("[]"), "unreadable"),
    "changed manifest": (
        lambda folder: (folder / MANIFEST).write_text(
            (folder / MANIFEST).read_text().replace('"step": 35', '"step": 36')
        ),
        "manifest.json has changed",
    ),
}


@pytest.mark.row("C-035")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_reported_and_the_one_before_taken(
    damage, cut, exp, program, whole, tmp_path, caplog
):
    place = shutil.copytree(cut, tmp_path / "run")
    hurt, message = DAMAGES[damage]
    hurt(place / "checkpoints" / "00000035")
    saved = Checkpoints(place / "checkpoints", primary="valid/accuracy")
    with caplog.at_level("WARNING", "jaxdl"):
        state = saved.restore(program.abstract)
    assert int(state.step) == 30
    assert "checkpoint 35 is damaged" in caplog.text and message in caplog.text
    assert (place / "checkpoints" / "00000035").exists(), "only `repair` may move it"
    assert saved.best()[0] == 20, "an unreadable manifest must not hide the others"
    assert int(saved.restore(program.abstract, repair=True).step) == 30
    assert saved.folders() == [20, 30]
    assert (place / "checkpoints" / "damaged-00000035").is_dir()


def test_training_goes_on_from_the_step_before_to_the_same_result(
    cut, exp, whole, tmp_path, caplog
):
    place = shutil.copytree(cut, tmp_path / "run")
    flip(largest(place / "checkpoints" / "00000035" / "state"))
    leftover = place / "checkpoints" / "writing-00000039" / "state"
    leftover.mkdir(parents=True)
    with caplog.at_level("INFO", "jaxdl"):
        fitted = fit(exp, place, devices=ONE)
    for words in ("checkpoint 35 is damaged", "writing-00000039", "resumed at step 30 of 60"):
        assert words in caplog.text
    assert not leftover.parent.exists()
    assert small.told(place) == small.told(whole[0])
    assert fitted.result.metrics == whole[1].metrics and fitted.result.best == whole[1].best


def test_a_damaged_best_checkpoint_is_never_evaluated_silently(exp, tmp_path, caplog):
    """Step 5 has by far the best value, then it rots."""
    scripted = small.Scripted(
        "valid", "accuracy", tuple(9.0 if i == 0 else 0.1 for i in range(4)), 5
    )
    exp = replace(exp, steps=20, hooks=(Log(every=10), scripted, Save(every=5)))
    stop = small.watch(small.At(15, small.send(15)))
    fit(exp, tmp_path, watch=stop, devices=ONE)
    flip(largest(tmp_path / "checkpoints" / "00000005" / "state"))
    with caplog.at_level("WARNING", "jaxdl"):
        fitted = fit(exp, tmp_path, devices=ONE)
    assert "the best checkpoint, 5, is damaged" in caplog.text
    assert int(fitted.state.step) == 20


def test_when_every_step_is_damaged_nothing_is_touched(cut, exp, tmp_path):
    place = shutil.copytree(cut, tmp_path / "run")
    for step in (20, 30, 35):
        flip(largest(place / "checkpoints" / f"{step:08d}" / "state"))
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    for _ in range(2):  # the second time it must not start from scratch
        with pytest.raises(InputError, match=r"every checkpoint .* is damaged"):
            fit(exp, place, devices=ONE)
    after = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert {p: b for p, b in before.items() if p.name != "result.json"} == {
        p: b for p, b in after.items() if p.name != "result.json"
    }


def test_a_checkpoint_of_another_model_names_the_parameter_and_both_shapes(cut, exp):
    other = build(change(exp, {"model.width": 24}), ONE)
    with pytest.raises(InputError) as error:
        Checkpoints(cut / "checkpoints").restore(other.abstract)
    assert "params/head/kernel is float32[16, 10] there and float32[24, 10] here" in str(
        error.value
    )
    without = build(change(exp, {"ema": 0.0}), ONE)
    with pytest.raises(InputError, match=r"ema/\S+ is float32\[\d+.*\] there and nothing here"):
        Checkpoints(cut / "checkpoints").restore(without.abstract)


@pytest.mark.row("C-035")
def test_saving_does_not_block_the_steps_and_the_state_is_still_donated(exp, tmp_path, monkeypatch):
    released, seen, begun, real = threading.Event(), [], [], checkpoint.ocp.save_async

    class Blocked:
        def __init__(self, response):
            self.response = response

        def result(self):
            begun.append(True)
            assert released.wait(60)
            return self.response.result()

    monkeypatch.setattr(checkpoint.ocp, "save_async", lambda *a: Blocked(real(*a)))

    class Watch:
        """Keeps a leaf of each state: donated, it must be deleted by the next update."""

        def __init__(self):
            self.kept = None

        def __call__(self, step, state, metrics):
            if self.kept is not None:
                assert self.kept.is_deleted(), f"the state before update {step} was copied"
            self.kept = jax.tree.leaves(state.params)[0]
            seen.append(step)
            if step == 19:
                assert begun and not list((tmp_path / "checkpoints").glob("[0-9]*"))
                released.set()

        def close(self):
            released.set()

    exp = replace(exp, steps=20, hooks=(Log(every=1), Save(every=10)))
    fit(exp, tmp_path, watch=small.watch(Watch()), devices=ONE)
    assert seen == list(range(1, 21))
    assert Checkpoints(tmp_path / "checkpoints").steps() == [10, 20]


@pytest.mark.row("C-036")
@pytest.mark.parametrize(
    ("mode", "values", "last", "best", "kept", "top"),
    [
        ("max", [1, 5, 2, 3, 4], 2, 1, [2, 4, 5], (2, 5)),
        ("min", [4, 1, 2, 3, 5], 2, 1, [2, 4, 5], (2, 1)),
        ("min", [5, 4, 3, 2, 1], 1, 1, [5], (5, 1)),
        ("max", [7, 7, 7, 1, 1], 1, 1, [1, 5], (1, 7)),  # the earliest of equals
        ("min", [1, 3, 1, 3, 2], 2, 2, [1, 3, 4, 5], (1, 1)),
        ("max", [1, 2, 3, 2, 1], 2, 0, [4, 5], (4, 2)),
        ("max", [float("nan"), 1, 2, float("nan"), 0], 1, 1, [3, 5], (3, 2)),
        ("min", [float("nan"), 1, 2, float("nan"), 3], 1, 1, [2, 5], (2, 1)),
        ("max", [None, 1, None, None, None], 2, 1, [2, 4, 5], (2, 1)),
        ("max", [None] * 5, 3, 1, [3, 4, 5], None),
    ],
)
def test_the_best_and_the_last_steps_are_kept(mode, values, last, best, kept, top, state, tmp_path):
    saved = Checkpoints(tmp_path, primary="valid/x", mode=mode, last=last, best=best)
    for step, value in enumerate(values, start=1):
        metrics = {"valid/y": 100.0} | ({} if value is None else {"valid/x": value})
        saved.save(step, state, metrics, {})
    saved.close()
    assert saved.steps() == saved.folders() == kept
    assert saved.best() == top
    manifest = json.loads((tmp_path / f"{kept[-1]:08d}" / MANIFEST).read_text())
    assert manifest["step"] == kept[-1] and manifest["files"]


@pytest.mark.row("C-036")
def test_an_improvement_is_saved_even_between_the_regular_saves(exp, tmp_path):
    scripted = small.Scripted("valid", "accuracy", (None, 0.5, 0.9, None, 0.9, 0.7), 3)
    exp = replace(exp, steps=19, hooks=(scripted, Save(every=10, last=1)))
    fitted = fit(exp, tmp_path, devices=ONE)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [9, 19]
    assert fitted.result.best == {"step": 9, "value": 0.9}
    assert int(fitted.state.step) == 9, "the result is of the best checkpoint"


@pytest.mark.row("C-037")
def test_a_state_moves_between_eight_devices_and_one(exp, tmp_path):
    rules = {"mlp": "model", "embed": "data"}
    meshes = {
        "4x2": (change(exp, {"rules": rules, "mesh": {"data": 4, "model": 2}}), jax.devices()),
        "8x1": (change(exp, {"rules": rules, "mesh": {"data": 8}}), None),
        "1": (exp, ONE),
    }
    programs = {name: build(e, devices) for name, (e, devices) in meshes.items()}
    state = programs["4x2"].init()
    values = small.leaves(state)
    for i, name in enumerate(("8x1", "1", "4x2", "1"), start=1):
        saved = Checkpoints(tmp_path / str(i))
        saved.save(i, state, {}, {})
        saved.close()
        state = saved.restore(programs[name].abstract)
        assert small.leaves(state) == values
        wanted = jax.tree.map(lambda x: x.sharding, programs[name].abstract)
        assert jax.tree.all(
            jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, wanted)
        )
    for name, shape in (("4x2", (16, 8)), ("8x1", (8, 16)), ("1", (64, 16))):
        kernel = programs[name].abstract.params["hidden"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == shape


def test_a_run_moves_from_eight_devices_to_one(exp, whole, tmp_path):
    stop = small.watch(small.At(25, small.send(15)))
    assert fit(exp, tmp_path, watch=stop, devices=jax.devices()).code == 75
    fitted = fit(exp, tmp_path, devices=ONE)
    assert fitted.result.status == "done"
    for mine, other in zip(small.told(tmp_path), small.told(whole[0]), strict=True):
        assert mine[:2] == other[:2]
        np.testing.assert_allclose(mine[2]["loss"], other[2]["loss"], rtol=2e-3)


@pytest.mark.parametrize("killed", [False, True], ids=["before the end", "before the new one"])
def test_a_step_that_is_written_again_is_never_without_its_files(killed, program, state, tmp_path):
    saved = Checkpoints(tmp_path)
    for _ in range(2):
        saved.save(5, state, {}, {})
    saved.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000005"]
    shutil.copytree(tmp_path / "00000005", tmp_path / "replaced-00000005")
    if killed:
        (tmp_path / "00000005").rename(tmp_path / "writing-00000005")
    restored = Checkpoints(tmp_path).restore(program.abstract, repair=True)
    assert small.leaves(restored) == small.leaves(state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000005"]
