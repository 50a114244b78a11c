import json
import math

import pytest

from jaxdl.core import records
from jaxdl.core.errors import InputError
from jaxdl.core.records import Passport, Record, Result

RESULT = Result(
    status="done",
    steps=20,
    seconds=1.5,
    primary="valid/accuracy",
    metrics={"valid": {"accuracy": 0.5, "loss": 1.25}},
    best={"step": 10, "value": 0.5},
)
PASSPORT = Passport(
    experiment={"$": "jaxdl.core.experiment:Experiment"},
    digest="0123abcd",
    source="experiments/x.py:base",
    command="jaxdl train",
    code={"revision": None},
    versions={"jax": "0"},
    data={"train": "ff"},
    devices={"count": 1},
    flags={},
    seed=3,
)


def strict(text):
    """JSON as others read it."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def write(directory, *lines):
    (directory / records.METRICS).write_text("".join(lines))


def test_a_record_comes_back_and_nan_is_null_on_the_way():
    values = {"loss": math.nan, "lr": 1e-3, "norm": math.inf}
    line = records.line_of(Record(step=50, split="train", time=12.3, values=values))
    assert line.endswith("}\n")
    assert strict(line) == {
        "step": 50,
        "split": "train",
        "time": 12.3,
        "values": {"loss": None, "lr": 1e-3, "norm": None},
    }


def test_records_are_read_in_order_with_null_as_nan(tmp_path):
    given = [Record(step=i, split="valid", time=i / 2, values={"loss": 1 / i}) for i in (1, 2, 3)]
    broken = Record(step=4, split="valid", time=2.0, values={"loss": math.nan})
    write(tmp_path, *map(records.line_of, [*given, broken]))
    *same, last = records.read_records(tmp_path)
    assert same == given
    assert last.step == 4
    assert math.isnan(last.values["loss"])


def test_a_line_cut_by_a_crash_ends_the_records(tmp_path):
    line = records.line_of(Record(step=1, split="train", time=0.0, values={"loss": 1.0}))
    for end in range(1, len(line) - 1):
        write(tmp_path, line, line[:end])
        assert [r.step for r in records.read_records(tmp_path)] == [1]


def test_there_may_be_no_records_and_no_result_yet(tmp_path):
    assert list(records.read_records(tmp_path)) == []
    assert records.read_result(tmp_path) is None


@pytest.mark.parametrize("status", ["done", "stopped", "preempted", "failed"])
def test_results_come_back_and_know_whether_anything_is_left(tmp_path, status):
    result = Result(**vars(RESULT) | {"status": status})
    records.write_json(tmp_path / records.RESULT, result)
    assert records.read_result(tmp_path) == result
    assert result.finished == (status in ("done", "stopped"))


def test_a_result_without_a_number_is_still_json(tmp_path):
    result = Result(
        **vars(RESULT)
        | {"metrics": {"test": {"loss": math.nan}}, "best": {"step": 1, "value": math.inf}}
    )
    records.write_json(tmp_path / records.RESULT, result)
    text = (tmp_path / records.RESULT).read_text()
    assert strict(text)["metrics"] == {"test": {"loss": None}}
    back = records.read_result(tmp_path)
    assert math.isnan(back.metrics["test"]["loss"])
    assert back.best["step"] == 1


def test_plain_values_keep_their_nan(tmp_path):
    """A checkpoint's manifest holds sums of metrics, which a resumed run goes on adding to."""
    records.write_json(tmp_path / "manifest.json", {"leaves": [math.inf, 1.0]})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"leaves": [math.inf, 1.0]}


def test_passports_come_back_without_what_a_later_version_adds(tmp_path):
    records.write_json(tmp_path / records.PASSPORT, PASSPORT)
    assert records.read_passport(tmp_path) == PASSPORT
    path = tmp_path / records.PASSPORT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}))
    assert records.read_passport(tmp_path) == PASSPORT


def test_writing_leaves_no_draft(tmp_path):
    records.write_json(tmp_path / records.RESULT, RESULT)
    assert [p.name for p in tmp_path.iterdir()] == [records.RESULT]


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "damaged"), ('{"schema": 2}', "schema 2, this version reads 1"), ("{}", "schema None")],
)
def test_what_cannot_be_read_is_said(tmp_path, text, says):
    (tmp_path / records.RESULT).write_text(text)
    with pytest.raises(InputError, match=says):
        records.read_result(tmp_path)


@pytest.mark.parametrize("line", [b"{broken\n", b"\xff\n", b"[1]\n", b'{"values": 3}\n'])
def test_damaged_records_are_named_after_those_before(tmp_path, line):
    one = Record(1, "train", 0.0, {"loss": 1.0})
    (tmp_path / records.METRICS).write_bytes(records.line_of(one).encode() + line)
    found = records.read_records(tmp_path)
    assert next(found) == one
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged .* another run directory"):
        next(found)


def test_a_directory_without_a_passport_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"not a run directory: it has no passport\.json"):
        records.read_passport(tmp_path)
