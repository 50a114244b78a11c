"""Collectives read from compiled programs whose bytes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxdl.parallel import make_mesh
from jaxdl.plan import collectives, replicas

MESH = make_mesh(data=2, model=4)
BLOCKS = P("data", "model")
ROWS, WIDTH = 8, 16


def found(fn):
    """Collectives of `fn` on local blocks [4, 4] of x [8, 16] float32."""
    sharded = jax.shard_map(fn, mesh=MESH, in_specs=BLOCKS, out_specs=P(), check_vma=False)
    text = jax.jit(sharded).lower(jnp.zeros((ROWS, WIDTH))).compile().as_text()
    return collectives(text, MESH.shape)


def ring(x):
    return jax.lax.ppermute(x, "model", [(i, (i + 1) % 4) for i in range(4)])


def nested(x):
    def inner(x, _):
        return jnp.sin(jax.lax.psum(x, "model")), None

    def outer(x, _):
        return jax.lax.scan(inner, x, length=3)[0], None

    return jax.lax.scan(outer, x, length=5)[0]


BLOCK = 4 * 4 * 4
CASES = {
    # a function of local blocks, and kind, axes, devices, bytes and trips by hand
    "all-reduce": (
        lambda x: jax.lax.psum(x, "model"),
        ("all-reduce", ("model",), 4, 2 * BLOCK * 3 // 4, 1),
    ),
    "two axes": (
        lambda x: jax.lax.psum(x, ("data", "model")),
        ("all-reduce", ("data", "model"), 8, 2 * BLOCK * 7 // 8, 1),
    ),
    "all-gather": (
        lambda x: jax.lax.all_gather(x, "data", tiled=True),
        ("all-gather", ("data",), 2, BLOCK, 1),
    ),
    "reduce-scatter": (
        lambda x: jax.lax.psum_scatter(x, "model", tiled=True),
        ("reduce-scatter", ("model",), 4, BLOCK * 3 // 4, 1),
    ),
    "all-to-all": (
        lambda x: jax.lax.all_to_all(x, "model", 0, 1, tiled=True),
        ("all-to-all", ("model",), 4, BLOCK * 3 // 4, 1),
    ),
    "ring": (ring, ("collective-permute", ("model",), 2, BLOCK, 1)),
    "loops": (nested, ("all-reduce", ("model",), 4, 2 * BLOCK * 3 // 4, 15)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_collective_is_read_with_its_axis_bytes_and_trips(case):
    fn, expected = case
    (one,) = found(fn)
    assert (one.kind, one.axes, one.members, one.bytes, one.trips) == expected
    assert one.total == expected[3] * expected[4]
    assert one.dtype == "f32"


def test_the_line_is_the_models():
    (one,) = found(lambda x: jax.lax.psum(x, "model"))
    assert one.line.startswith(f"{__file__}:")
    assert one.op.endswith("psum") or "psum" in one.op


@pytest.mark.row("C-017")
def test_axes_of_size_one_cost_no_collective():
    mesh = make_mesh(jax.devices()[:1])
    fn = jax.shard_map(
        lambda x: jax.lax.psum(x, "model") + jax.lax.pmean(x, "data"),
        mesh=mesh, in_specs=BLOCKS, out_specs=P(), check_vma=False,
    )  # fmt: skip
    text = jax.jit(fn).lower(jnp.zeros((ROWS, WIDTH))).compile().as_text()
    assert collectives(text, mesh.shape) == []


EIGHT = np.arange(8).reshape(2, 4)
NOTATIONS = {
    "replica_groups={{0,1,2,3},{4,5,6,7}}, ": EIGHT,
    "replica_groups=[2,4]<=[8], ": EIGHT,
    "replica_groups=[4,2]<=[2,4]T(1,0), ": EIGHT.T,
    "replica_groups={}, ": np.arange(8)[None],
    "replica_groups=mesh['a'=2,'b'=4] {'b'}, ": EIGHT,
    "replica_groups=mesh['a'=2,'b'=4] {'a'}, ": EIGHT.T,
    "replica_groups=mesh['a'=8] {'a':(2)4}, ": EIGHT,
    "replica_groups=mesh['a'=8] {'a':(1)2}, ": EIGHT.T,
    "replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}, ": np.arange(
        8
    ).reshape(4, 2),
}


@pytest.mark.parametrize(("text", "groups"), NOTATIONS.items(), ids=NOTATIONS)
def test_every_notation_of_groups_is_read(text, groups):
    assert sorted(replicas.groups(text, 8).tolist()) == sorted(groups.tolist())


def test_what_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match="replica_groups that cannot be read"):
        replicas.groups("replica_groups=fancy", 8)
    with pytest.raises(ValueError, match="no ENTRY"):
        collectives("nothing", {"data": 8})
    with pytest.raises(ValueError, match="source_target_pairs"):
        replicas.pairs("source_target_pairs=fancy")


SPREAD = """HloModule spread, is_scheduled=true

%piece.1 (p: bf16[4,64]) -> bf16[16,64] {
  %p = bf16[4,64]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(step)/gather"}
}

%piece.2 (q: bf16[4,64]) -> bf16[16,64] {
  %q = bf16[4,64]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[16,64]{1,0} all-gather(%q), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(step)/gather"}
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: f32[16,64]) -> f32[4,64] {
  %input = f32[16,64]{1,0} parameter(0)
  %all-reduce.3 = f32[16,64]{1,0} all-reduce(%input), channel_id=8, replica_groups=[2,4]<=[8], use_global_device_ids=true, to_apply=%add
  ROOT %slice = f32[4,64]{1,0} dynamic-slice(%all-reduce.3)
}

ENTRY %main (x: bf16[4,64], y: f32[16,64]) -> f32[4,64] {
  %x = bf16[4,64]{1,0} parameter(0)
  %y = f32[16,64]{1,0} parameter(1)
  %f.1 = bf16[16,64]{1,0} fusion(%x), kind=kLoop, calls=%piece.1
  %f.2 = bf16[16,64]{1,0} fusion(%x), kind=kLoop, calls=%piece.2
  %ar-start = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=9, source_target_pairs={{0,4},{4,0},{1,1}}
  %ar-done = f32[8]{0} collective-permute-done(%ar-start)
  ROOT %f.3 = f32[4,64]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/scatter"}
}
"""  # noqa: E501


def test_pieces_pairs_and_fused_scatters_of_accelerators_count_once():
    gather, permute, scatter = collectives(SPREAD, {"data": 2, "model": 4})
    assert (gather.kind, gather.bytes, gather.dtype) == ("all-gather", 16 * 64 * 2 * 3 // 4, "bf16")
    assert (permute.kind, permute.axes, permute.bytes) == ("collective-permute", ("data",), 32)
    assert (scatter.kind, scatter.bytes) == ("reduce-scatter", 16 * 64 * 4 * 3 // 4)
    assert scatter.op == "jit(step)/scatter"


COUNTING = """HloModule counting

%test (t: (u32[], f32[8])) -> pred[] {
  %bound = u32[]{:T(128)} constant(8)
  %t = (u32[]{:T(128)}, f32[8]{0}) parameter(0)
  %at = u32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%at, %bound), direction=LT
}

%work (w: (u32[], f32[8])) -> (u32[], f32[8]) {
  %w = (u32[], f32[8]{0}) parameter(0)
  %now = u32[]{:T(128)} get-tuple-element(%w), index=0
  %x = f32[8]{0} get-tuple-element(%w), index=1
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%now, %two)
  %sum = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={}, use_global_device_ids=true
  ROOT %out = (u32[], /*index=1*/f32[8]{0}) tuple(%next, /*index=1*/%sum)
}

ENTRY %main (s: (u32[], f32[8])) -> (u32[], f32[8]) {
  %s = (u32[], f32[8]{0}) parameter(0)
  ROOT %loop = (u32[], f32[8]{0}) while(%s), condition=%test, body=%work
}
"""


@pytest.mark.parametrize(("bound", "step", "trips"), [(8, 2, 4), (8, 1, 8), (7, 2, 4)])
def test_a_loop_that_does_not_say_how_often_it_runs_is_counted(bound, step, trips):
    text = COUNTING.replace("constant(8)", f"constant({bound})")
    (one,) = collectives(text.replace("constant(2)", f"constant({step})"), {"data": 8})
    assert one.trips == trips and one.axes == ("data",)


def test_a_counter_may_be_copied_before_the_next_turn():
    copy = "%copy.1 = u32[]{:T(128)} copy(%next)\n  ROOT %out"
    text = COUNTING.replace("ROOT %out", copy).replace("tuple(%next,", "tuple(%copy.1,")
    (one,) = collectives(text, {"data": 8})
    assert one.trips == 4


def test_loops_that_share_a_channel_are_counted_each():
    first, rest = COUNTING.split("ENTRY", 1)
    again = first.replace("HloModule counting", "").replace("%test", "%test.2")
    again = again.replace("%work", "%work.2").replace("constant(8)", "constant(6)")
    two = "%one = (u32[], f32[8]{0}) while(%s), condition=%test, body=%work\n  ROOT %loop"
    rest = rest.replace("ROOT %loop", two).replace("while(%s), condition=%test, body=%work\n}",
        "while(%one), condition=%test.2, body=%work.2\n}")  # fmt: skip
    found = collectives(f"{first}{again}ENTRY{rest}", {"data": 8})
    assert [one.trips for one in found] == [4, 3]
