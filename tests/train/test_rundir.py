"""The run directory: what is written is what is read back, once, by one process."""

import json
import struct

import jax
import numpy as np
import pytest
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c

from jaxdl.core import load
from jaxdl.core.change import change
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.core.records import read_passport, read_records, read_result
from jaxdl.train import Evaluate, Histograms, Log, Save, fit, rundir
from jaxdl.train.board import Board
from jaxdl.train.passport import issue

small = load_file(__file__.replace("test_rundir", "small"))
pytestmark = pytest.mark.usefixtures("shared_programs")
ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def exp():
    hooks = (Log(every=4), Evaluate(every=6), Histograms(every=10, params="*kernel"), Save(every=6))
    return change(small.base(), {"steps": 20, "hooks": hooks})


@pytest.fixture(scope="module")
def whole(exp, tmp_path_factory):
    place = tmp_path_factory.mktemp("rundir") / "run"
    return place, fit(exp, place, source="here", devices=ONE)


def events(directory):
    """All events in the order TensorBoard reads them; checks lengths and checksums."""
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            head, crc = content[:8], struct.unpack("<I", content[8:12])[0]
            assert masked_crc32c(head) == crc
            (size,) = struct.unpack("<Q", head)
            data, end = content[12 : 12 + size], content[12 + size : 16 + size]
            assert masked_crc32c(data) == struct.unpack("<I", end)[0]
            yield Event.FromString(data)
            content = content[16 + size :]


def scalars(directory):
    """Points by tag as TensorBoard shows them: a restart hides what lies at or after its step."""
    found = {}
    for event in events(directory):
        if event.session_log.status == 1:
            for tag, points in found.items():
                found[tag] = [p for p in points if p[0] < event.step]
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def recorded(directory):
    """The same from metrics.jsonl; TensorBoard keeps float32."""
    found = {}
    for record in read_records(directory):
        for name, value in record.values.items():
            tag = f"{record.split}/{name}"
            found.setdefault(tag, []).append((record.step, float(np.float32(value))))
    return found


def result_of(found):
    """What TensorBoard has beyond the records."""
    return {tag: points for tag, points in found.items() if tag.startswith("result/")}


def hparams(directory, kind):
    """What was told for the HPARAMS tab."""
    for event in events(directory):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                if data.HasField(kind):
                    assert value.tag == f"_hparams_/{kind}"
                    yield getattr(data, kind)


def test_tensorboard_knows_the_settings_and_the_final_primary_metric(exp, tmp_path):
    board = tmp_path / "tensorboard"
    stop = small.At(7, small.send(15))
    assert fit(exp, tmp_path, watch=small.watch(stop), devices=ONE).code == 75
    assert not [*hparams(board, "session_end_info")] and not result_of(scalars(board))
    result = fit(exp, tmp_path, devices=ONE).result
    (start,), (end,) = (list(hparams(board, f"session_{k}_info")) for k in ("start", "end"))
    told = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.hparams.items()}
    assert told["model"] == "Net" and told["model.width"] == 16 and told["seed"] == 0
    assert told["optim.schedule"] == "Cosine" and "hooks.0.every" not in told
    value = float(np.float32(result.metrics["valid"]["accuracy"]))
    assert end.status == Status.Value("STATUS_SUCCESS")
    assert result_of(scalars(board)) == {"result/valid/accuracy": [(20, value)]}


@pytest.mark.row("C-039")
def test_records_and_events_hold_the_same_points(whole):
    place, _ = whole
    found = recorded(place)
    primary = result_of(scalars(place / "tensorboard"))
    assert scalars(place / "tensorboard") == found | primary
    assert [step for step, _ in found["train/loss"]] == [4, 8, 12, 16, 20]
    assert [step for step, _ in found["valid/accuracy"]] == [6, 12, 18]
    assert {"train/lr", "train/grad_norm", "perf/step_ms", "valid/loss"} <= set(found)


@pytest.mark.row("C-039")
def test_parameters_have_histograms(whole, exp):
    place, fitted = whole
    found = [
        (event.step, value.tag, value.histo)
        for event in events(place / "tensorboard")
        for value in event.summary.value
        if value.HasField("histo")
    ]
    tags = ["head/kernel", "hidden/kernel"]
    assert [(step, tag) for step, tag, _ in found] == [(s, t) for s in (10, 20) for t in tags]
    sizes = {"head/kernel": 160, "hidden/kernel": 1024}
    last = {t: np.asarray(fitted.state.params[t.split("/")[0]]["kernel"]) for t in tags}
    for step, tag, histogram in found:
        assert histogram.num == sum(histogram.bucket) == sizes[tag]
        if step == 20 and int(fitted.state.step) == 20:
            assert histogram.min == pytest.approx(last[tag].min())
            assert histogram.max == pytest.approx(last[tag].max())


@pytest.mark.row("C-039")
@pytest.mark.parametrize("lost", [3, 9, 13])
def test_after_a_crash_no_step_is_told_twice(lost, exp, whole, tmp_path):
    def crash():
        raise KeyboardInterrupt  # nothing is saved, as when killed

    for _ in range(2):  # two sittings within one second, too
        with pytest.raises(KeyboardInterrupt):
            fit(exp, tmp_path, watch=small.watch(small.At(lost, crash)), devices=ONE)
    fit(exp, tmp_path, devices=ONE)
    assert small.told(tmp_path) == small.told(whole[0])
    shown = scalars(tmp_path / "tensorboard")
    assert shown == recorded(tmp_path) | result_of(shown)


@pytest.mark.row("C-039")
def test_only_process_0_writes(exp, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    run = rundir.open_run(tmp_path, rundir_passport(exp), "valid/loss", "min")
    before = sorted(tmp_path.rglob("*"))
    run.begin(0)
    run.write(1, "train", {"loss": 1.0})
    run.histogram(1, "x", np.ones(3))
    run.finish(None)
    run.close()
    assert sorted(tmp_path.rglob("*")) == before == []
    assert run.latest == {"train/loss": 1.0} and run.history("train/loss") == [(1, 1.0)]


def rundir_passport(exp):
    return issue(exp, "here")


def test_the_passport_tells_what_was_run(whole, exp):
    passport = read_passport(whole[0])
    assert load(passport.experiment) == exp and passport.source == "here"
    assert passport.seed == exp.seed and passport.versions["jax"] == jax.__version__
    assert set(passport.data) == {"train", "valid", "test"} and passport.devices["count"] == 1
    assert "XLA_FLAGS" in passport.flags and set(passport.code) == {
        *("jaxdl", "here", "file", "files")
    }
    assert passport.sittings == ()


def test_the_result_is_plain_json(whole):
    place, fitted = whole
    told = json.loads((place / "result.json").read_text(), parse_constant=pytest.fail)
    assert told["status"] == "done" and told["steps"] == 20 and told["schema"] == 1
    assert told["metrics"]["test"] == fitted.result.metrics["test"]
    assert read_result(place) == fitted.result


def test_values_that_json_does_not_know_come_back_as_nan(tmp_path, exp):
    run = rundir.open_run(tmp_path, rundir_passport(exp), "valid/loss", "min")
    run.begin(0)
    run.write(1, "train", {"loss": float("nan"), "x": float("inf"), "y": 2})
    run.close()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    (record,) = read_records(tmp_path)
    assert np.isnan(record.values["loss"]) and record.values["y"] == 2.0


def test_a_line_cut_short_by_a_crash_is_dropped_on_resume(exp, whole, tmp_path):
    stop = small.watch(small.At(13, small.send(15)))
    fit(exp, tmp_path, watch=stop, devices=ONE)
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 14, "split": "tr')
    fit(exp, tmp_path, devices=ONE)
    assert small.told(tmp_path) == small.told(whole[0])


def test_an_event_is_on_the_disk_when_the_call_returns(tmp_path):
    boards = [Board(tmp_path, 0), Board(tmp_path, 4)]  # in the same second: two files
    boards[0].scalars(3, {"a": 1.0})
    boards[0].scalars(9, {"a": 9.0})
    boards[1].scalars(5, {"a": 2.0})
    assert scalars(tmp_path) == {"a": [(3, 1.0), (5, 2.0)]}
    for board in boards:
        board.close()


@pytest.mark.parametrize(
    ("change_it", "message"),
    [
        (lambda place: (place / "passport.json").write_text("{"), "is damaged"),
        (lambda place: (place / "passport.json").write_text('{"schema": 9}'), "schema 9"),
        (lambda place: (place / "passport.json").unlink(), "is not empty"),
        (lambda place: (place / "result.json").write_text("nonsense"), "is damaged"),
    ],
)
def test_a_directory_that_is_not_a_whole_run_is_refused(change_it, message, exp, whole, tmp_path):
    for name in ("passport.json", "result.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    change_it(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message):
        fit(exp, tmp_path, devices=ONE)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
