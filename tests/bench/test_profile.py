"""Where a step's time goes: reading traces, and the program's own."""

import gzip
import json

import jax
import pytest

from jaxdl.bench import trace
from jaxdl.bench.profile import profile
from jaxdl.bench.trace import Event, Source
from jaxdl.core import Experiment, InputError
from jaxdl.core.flops import flops
from jaxdl.data import Digits
from jaxdl.models.mlp import MLP
from jaxdl.optim import AdamW
from jaxdl.tasks import Classification
from jaxdl.train import build

HLO = """
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


def test_instructions_know_their_module_and_copies_that_of_their_user():
    assert trace.sources(HLO) == {
        "dot.1": Source("GPT/head", "forward", "dot_general"),
        "copy.9": Source("GPT/head", "forward", "copy"),
        "t.2": Source("", "update", "while"),
        "alone": Source("", "unnamed", "fusion"),
    }


def test_a_folder_without_a_trace_of_programs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \*.trace"):
        trace.read_events(tmp_path)
    with gzip.open(tmp_path / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": [{"ph": "X", "name": "python", "ts": 0, "dur": 1}]}, file)
    with pytest.raises(InputError, match="names no operation"):
        trace.read_events(tmp_path)


def test_every_table_of_a_step_adds_up_to_the_same_time(tmp_path):
    model = MLP(widths=(16,), classes=10)
    exp = Experiment(model, Classification(), Digits(batch=64), AdamW(), steps=9)
    program = build(exp, jax.devices()[:1])
    found = profile(program, tmp_path / "trace", steps=3)
    tables = [found.phases, found.modules, found.kinds, found.ops]
    sums = [sum(row.ms for row in table) for table in tables]
    assert sums == pytest.approx([sums[0]] * 4) and sums[0] > 0
    assert all([r.ms for r in t] == sorted((r.ms for r in t), reverse=True) for t in tables)
    assert {"forward", "backward", "update"} <= {row.name for row in found.phases}
    counted = flops(jax.make_jaxpr(program.step)(program.abstract, program.batch)).total()
    assert counted == found.flops == 3 * 2 * 64 * (64 * 16 + 16 * 10) - 2 * 64 * 64 * 16
    modules = {row.name: row for row in found.modules}
    assert modules["MLP/head"].flops == 3 * 2 * 64 * 16 * 10
    assert {"MLP/hidden_0", "MLP/head"} <= {row.module for row in found.ops}
    assert found.memory_mb["argument"] > 0 and 0 < found.device_share <= 1
    assert list((tmp_path / "trace").rglob("perfetto_trace.json.gz"))
