"""Trackers hold a run's records once, whatever happens, and never hold it up."""

import importlib.util
import json
import struct
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.core.records import Record, Result, read_records
from jaxdl.train import Evaluate, Log, MLflow, Save, WandB, fit
from jaxdl.train.hooks import track

small = load_file(__file__.replace("test_track", "small"))
pytestmark = [pytest.mark.usefixtures("shared_programs"), pytest.mark.filterwarnings("default")]
ONE = jax.devices()[:1]


def exp_with(*trackers):
    hooks = (Log(every=4), Evaluate(every=6), *trackers, Save(every=5))
    return replace(small.base(), steps=20, hooks=hooks)


def recorded(place):
    """Steps and values by name, as in metrics.jsonl."""
    found = {}
    for record in read_records(place):
        for name, value in record.values.items():
            found.setdefault(f"{record.split}/{name}", []).append((record.step, value))
    return found


def interrupted(exp, place):
    """A run that is preempted, then crashes, then ends; its result."""

    def crash():
        raise KeyboardInterrupt

    assert fit(exp, place, watch=small.watch(small.At(7, small.send(15))), devices=ONE).code == 75
    with pytest.raises(KeyboardInterrupt):
        fit(exp, place, watch=small.watch(small.At(13, crash)), devices=ONE)
    return fit(exp, place, devices=ONE).result


class Kept:
    """A tracker in memory, shared by the sittings of a run."""

    def __init__(self):
        self.opened, self.points, self.ended = [], [], []

    def open(self, known, config):
        self.opened.append(known)
        self.config = config
        return known or "first"

    def send(self, found):
        self.points += [(r.split, r.step) for _, r in found]

    def finish(self, result, files):
        self.ended.append((result.status, [f.name for f in files]))


def fake_run(tmp_path, *records):
    passport = SimpleNamespace(experiment={"seed": 1})
    return SimpleNamespace(
        path=tmp_path, records=list(records), ended=[], seconds=1.0, passport=passport
    )


FILES, SQLITE = "file://{}/mlruns", "sqlite:///{}/mlflow.db"
RESULT = Result("done", 9, 1.0, "valid/accuracy")


@pytest.mark.row("C-040")
def test_a_resumed_mirror_goes_on_under_its_id_and_sends_nothing_twice(tmp_path):
    client, records = Kept(), [Record(s, "train", 0.1 * s, {"loss": 1.0}) for s in (2, 4, 6)]
    for known in (records[:2], records[:1], records):  # the second sitting begins before the first
        run = fake_run(tmp_path, *known)
        track.Mirror("Tracker", "here", client, run).close()
        run.ended[0](RESULT)
    assert client.opened == [None, "first", "first"]
    assert client.points == [("train", 2), ("train", 4), ("train", 6)]
    assert json.loads((tmp_path / "tracking.json").read_text()) == {
        "here": {"id": "first", "sent": {"train": 6}}
    }


def test_a_tracker_that_hangs_holds_nothing_up(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(track, "PATIENCE_S", 0.2)
    monkeypatch.setattr(track, "EVERY_S", 0.0)
    gate = threading.Event()
    client = Kept()
    client.open = lambda known, config: str(gate.wait(60))
    run = fake_run(tmp_path)
    mirror = track.Mirror("Tracker", "here", client, run)
    start = time.perf_counter()
    for step in range(1000):
        run.records.append(Record(step, "train", 0.0, {}))
        mirror(step, None, None)
    mirror.close()
    run.ended[0](RESULT)
    assert time.perf_counter() - start < 5 and "Tracker has not answered" in caplog.text
    gate.set()


@pytest.mark.parametrize("fails", ["open", "send", "finish"])
def test_a_tracker_that_fails_is_a_warning(fails, tmp_path, caplog):
    client = Kept()

    def fail(*args):
        raise OSError("no route")

    setattr(client, fails, fail)
    run = fake_run(tmp_path, Record(1, "train", 0.0, {}))
    track.Mirror("Tracker", "here", client, run)
    run.ended[0](RESULT)
    assert "Tracker: no route; the run goes on without it" in caplog.text


@pytest.mark.parametrize("config", [WandB("p"), MLflow("sqlite://", "e")], ids=["wandb", "mlflow"])
def test_a_missing_library_names_the_extra_before_anything_runs(config, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"jaxdl\[track\]"):
        fit(exp_with(config), tmp_path / "run", devices=ONE)
    assert not list(tmp_path.iterdir())


@pytest.mark.row("C-040")
@pytest.mark.parametrize("store", [FILES, pytest.param(SQLITE, marks=pytest.mark.slow)])
def test_mlflow_holds_the_run_once(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # SQLite takes long to set up
    tracking = pytest.importorskip("mlflow.tracking")
    place, uri = tmp_path / "run", store.format(tmp_path)
    client = tracking.MlflowClient(uri)
    study = client.create_experiment("digits", (tmp_path / "artifacts").as_uri())
    result = interrupted(exp_with(MLflow(uri, "digits")), place)
    (run,) = client.search_runs([study])
    wanted = {k: v for k, v in recorded(place).items() if not k.startswith("perf/")}
    for name, points in wanted.items():
        found = client.get_metric_history(run.info.run_id, name)
        assert sorted((m.step, m.value) for m in found) == points, name
    assert run.info.status == "FINISHED" and run.data.params["model.width"] == "16"
    assert run.data.metrics["result/test/accuracy"] == result.metrics["test"]["accuracy"]
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["passport.json"]


def logged(data):
    """The messages of a .wandb file: LevelDB's log format, 32 KiB blocks, after 7 bytes."""
    at, message = 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        message += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield message
            message = b""


@pytest.mark.row("C-040")
def test_wandb_offline_holds_the_run_once_under_one_id(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record as Line

    place = tmp_path / "run"
    interrupted(exp_with(WandB("digits")), place)
    points, ids, config, summary = {}, set(), {}, {}
    for file in sorted(place.glob("wandb/offline-run-*/*.wandb")):
        for line in map(Line.FromString, logged(file.read_bytes())):
            if line.HasField("run"):
                ids.add(line.run.run_id)
                config |= {c.key: json.loads(c.value_json) for c in line.run.config.update}
            for item in line.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in line.history.item}
            for name in row.keys() - {"step"}:
                points.setdefault(name, []).append((row["step"], row[name]))
    wanted = {k: v for k, v in recorded(place).items() if not k.startswith("perf/")}
    assert {name: points[name] for name in wanted} == wanted
    assert len(ids) == 1 and config["model.width"] == 16 and summary["status"] == "done"
    assert list(place.glob("wandb/offline-run-*/files/passport.json"))
