"""Where a step's time goes: reading traces, and the program's own."""

import gzip
import json
import re
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from jaxdl.bench import trace
from jaxdl.bench.feed import feed
from jaxdl.bench.lines import KERNELS, lines
from jaxdl.bench.profile import profile
from jaxdl.bench.trace import Event, Source
from jaxdl.core import Experiment, InputError
from jaxdl.core.flops import flops
from jaxdl.data import Digits, prefetch
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW
from jaxdl.tasks import Classification
from jaxdl.train import build

HLO = """
FileNames
1 "/there/mine.py"
2 "LIBRARY/flax/linen/linear.py"
3 "KERNELS/conv2d/api.py"

FunctionNames
1 "step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=700 end_line=700 column=1 end_column=2}
3 {file_name_id=1 function_name_id=1 line=7 end_line=8 column=1 end_column=2}
4 {file_name_id=3 function_name_id=1 line=9 end_line=9 column=1 end_column=2}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
8 {file_location_id=2 parent_frame_id=4}
9 {file_location_id=4 parent_frame_id=9}

  %dot.1 = f32[2,3]{1,0} dot(%copy.9, %b), metadata={op_name="jit(step)/jvp(GPT)/head/dot_general"}
  %copy.9 = f32[2,3]{0,1} copy(%a)
  ROOT %t.2 = (f32[2]{0}, f32[]) while(%x), metadata={op_name="jit(step)/while" stack_frame_id=8}
  %alone = f32[] fusion(%p), kind=kLoop
"""
STACKS = {
    "jit(step)/transpose(jvp(GPT))/blocks/closed_call/layers.layer/layers/attention/q": (
        "GPT/blocks/layers/attention/q",
        "backward",
    ),
    "jit(step)/jvp(GPT)/blocks/layers/attention/bhts,bshk->bthk": (
        "GPT/blocks/layers/attention",
        "forward",
    ),
    "jit(step)/transpose(jvp(Net))/conv_1/transpose()/branch_0_fun": ("Net/conv_1", "backward"),
    "jit(step)/shard_map/jvp(Net)/norm": ("Net/norm", "forward"),
    "jvp(GPT)/tokens.attend": ("GPT/tokens", "forward"),
    "jit(step)/jit(_where)": ("", "update"),
}


def test_self_times_leave_out_what_runs_inside():
    thread, other = (1, 1), (1, 2)
    events = [
        Event("while", thread, 0, 100),
        Event("dot", thread, 10, 30),
        Event("dot", thread, 50, 20),
        Event("add", thread, 55, 5),
        Event("dot", other, 20, 40),
        Event("copy", thread, 100, 7),
    ]
    expected = {"while": 50, "dot": 30 + 15 + 40, "add": 5, "copy": 7}
    assert trace.self_times(events) == expected
    assert trace.busy(events) == 107 and trace.busy([]) == 0
    assert trace.busy([Event("a", thread, 0, 2), Event("b", other, 5, 2)]) == 4


@pytest.mark.parametrize("stack", STACKS)
def test_a_name_stack_gives_module_and_phase(stack):
    assert (trace.module_of(stack), trace.phase_of(stack)) == STACKS[stack]


@pytest.mark.parametrize("none", [0, 1], ids=["plain", "one too many"])
def test_an_operation_belongs_to_the_innermost_line_that_is_not_a_library_s(none, tmp_path):
    text = HLO.replace("LIBRARY", sysconfig.get_path("purelib")).replace("KERNELS", str(KERNELS))
    frames = re.compile(r"parent_frame_id=(\d)")
    text = frames.sub(lambda found: f"parent_frame_id={int(found[1]) - 1 + none}", text)
    first, second = "/there/mine.py:3", "/there/mine.py:7"
    assert lines(text) == {2: first, 3: second, 8: second, 9: second}
    assert lines("HloModule jit_step") == {}


def test_instructions_know_their_module_and_copies_that_of_their_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = HLO.replace("/there", str(tmp_path)).replace("LIBRARY", sysconfig.get_path("purelib"))
    assert trace.sources(text) == {
        "dot.1": Source("GPT/head", "forward", "dot_general"),
        "copy.9": Source("GPT/head", "forward", "copy"),
        "t.2": Source("", "update", "while", "mine.py:7"),
        "alone": Source("", "unnamed", "fusion"),
    }


def test_a_folder_without_a_trace_of_programs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \*.trace"):
        trace.read_events(tmp_path)
    with gzip.open(tmp_path / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": [{"ph": "X", "name": "python", "ts": 0, "dur": 1}]}, file)
    with pytest.raises(InputError, match="names no operation"):
        trace.read_events(tmp_path)


@pytest.mark.row("I-024")
def test_every_table_of_a_step_adds_up_to_the_same_time(tmp_path):
    model = MLP(widths=(16,), classes=10)
    exp = Experiment(model, Classification(), Digits(batch=64), AdamW(), steps=9)
    program = build(exp, jax.devices()[:1])
    found = profile(program, tmp_path / "trace", steps=3)
    tables = [found.phases, found.modules, found.lines, found.kinds, found.ops]
    sums = [sum(row.ms for row in table) for table in tables]
    assert sums == pytest.approx([sums[0]] * 5) and sums[0] > 0
    assert all([r.ms for r in t] == sorted((r.ms for r in t), reverse=True) for t in tables)
    assert {"forward", "backward", "update"} <= {row.name for row in found.phases}
    counted = flops(jax.make_jaxpr(program.step)(program.abstract, program.batch)).total()
    assert counted == found.flops == 3 * 2 * 64 * (64 * 16 + 16 * 10) - 2 * 64 * 64 * 16
    modules = {row.name: row for row in found.modules}
    assert modules["MLP/head"].flops == 3 * 2 * 64 * 16 * 10
    assert {"MLP/hidden_0", "MLP/head"} <= {row.module for row in found.ops}
    assert found.memory_mb["argument"] > 0 and 0 <= found.device_idle_share < 1
    assert 0 < found.compile_share < 1 and 0 <= found.input_wait_share < 1
    spots = [row.name.rpartition(":") for row in found.lines]
    asked = {Path(file).read_text().splitlines()[int(n) - 1] for file, _, n in spots if file}
    assert any("dense(self.classes" in line for line in asked)
    labelled = json.loads(gzip.open(tmp_path / "trace" / trace.LABELLED).read())["traceEvents"]
    names = {event.get("name", "").partition(" ")[0] for event in labelled}
    assert {"forward", "backward", "update"} <= names
    assert list((tmp_path / "trace").rglob("perfetto_trace.json.gz"))


@dataclass(frozen=True)
class Slow:
    """Batches that take long to make."""

    seconds: float

    def __call__(self, examples, rng):
        time.sleep(self.seconds)
        return {"image": examples["image"].astype("float32"), "label": examples["label"]}


@pytest.mark.row("I-027")
@pytest.mark.parametrize(("load", "step"), [(0.05, 0.02), (0.03, 0.025), (0.01, 0.03)])
def test_a_slow_loader_is_told_by_the_time_that_steps_wait(load, step):
    def get(n):
        time.sleep(load)
        return {}

    ahead = prefetch(get)
    found = feed(lambda batch: time.sleep(step), ahead, 20)
    ahead.close()
    assert found.waiting == pytest.approx(max(0.0, 1 - step / load), abs=0.05)
    assert found.seconds == pytest.approx(20 * max(load, step), rel=0.1)


@pytest.mark.row("I-027")
def test_a_slow_transform_makes_the_profile_of_an_experiment_input_bound(tmp_path):
    data = Digits(batch=64, train_transform=(Slow(0.3),))
    model = MLP(widths=(16,), classes=10)
    exp = Experiment(model, Classification(), data, AdamW(), steps=9)
    found = profile(build(exp, jax.devices()[:1]), tmp_path, steps=2)
    assert found.input_wait_share == pytest.approx(1 - found.step_ms / 300, abs=0.05)
    assert found.fed_step_ms == pytest.approx(300, rel=0.1)
    assert found.device_idle_share > 0.9
