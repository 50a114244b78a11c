"""Pipelines: schedules, and the numbers of accumulation whatever the schedule."""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core import Experiment
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.core.part import Part
from jaxdl.data import ArraySource, Splits
from jaxdl.models.gpt import GPT
from jaxdl.nn import Stack, batch_norm, constrain, dense, dropout, embed, layer_norm
from jaxdl.optim import SAM, AdamW, Constant
from jaxdl.parallel import bubble, make_mesh, peak, pipelined, scope, shardings, unbox
from jaxdl.parallel.pipeline_schedule import Schedule
from jaxdl.tasks import LanguageModel
from jaxdl.train import build
from jaxdl.train.grad import accumulate, gradient

laws = load_file(__file__.replace("test_pipeline", "laws"))

KINDS = ("gpipe", "1f1b", "interleaved")
KEY = jax.random.key(3)


class Layer(nn.Module):
    """Dropout and a residual, as in transformers."""

    hidden: int = 16
    normed: bool = False
    sows: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        y = batch_norm(train, name="bn")(x) if self.normed else layer_norm(name="norm")(x)
        y = jnp.tanh(dense(self.hidden, ("embed", "mlp"), name="up")(y))
        y = constrain(y, ("batch", "time", "act_mlp"))
        if self.sows:
            self.sow("losses", "size", (y**2).mean())
        return x + dropout(0.2, train)(dense(x.shape[-1], ("mlp", "embed"), name="down")(y))


class Tied(nn.Module):
    """The embedding is used before the Stack and after it."""

    depth: int = 8
    vocab: int = 32
    width: int = 8
    remat: str = "none"
    segment: int = 1
    stacks: int = 1
    layer: Part = Part(Layer)

    @nn.compact
    def __call__(self, tokens, *, train=False):
        table = embed(self.vocab, self.width, std=1.0, name="tokens")
        x = dropout(0.2, train)(table(tokens))
        for i in range(self.stacks):
            stack = Stack(self.layer, self.depth, self.remat, self.segment, name=f"blocks_{i}")
            x = stack(x, train=train)
        return table.attend(layer_norm(name="norm")(x))


def tokens(rows, seed=0, vocab=32, length=5):
    found = np.random.default_rng(seed).integers(vocab, size=(rows, length))
    return found.astype(np.int32)


def gradients(mesh, kind="1f1b", parts=8, model=None, rows=16):
    """Compiled; its arguments; and what it gives."""
    model, task, batch = model or Tied(), LanguageModel(), {"tokens": jnp.asarray(tokens(rows))}
    mesh = make_mesh(jax.devices()[: int(np.prod(list(mesh.values())))], **mesh)
    boxed, _ = jax.jit(lambda: task.init(model, jax.random.key(0), batch))()
    (player,) = task.players(model)
    grad = accumulate(gradient(), parts, unroll=False)
    grad = pipelined(grad, parts, kind, "raise")

    def run(params, batch, key):
        with scope(mesh, "auto"):
            return grad(player, params, {}, batch, key)

    places = shardings(boxed, mesh, "auto"), NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    args = (*jax.device_put((unbox(boxed), batch), places), KEY)
    compiled = jax.jit(run).lower(*args).compile()
    return compiled, jax.device_get(compiled(*args))


@cache
def accumulated(parts):
    return gradients({"data": 1}, parts=parts)[1]


def close(found, expected, rtol=1e-5):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1e-3, np.abs(b).max()))


@pytest.mark.row("C-022")
@pytest.mark.parametrize("kind", KINDS)
def test_four_stages_and_eight_micro_batches_give_what_accumulation_gives(kind):
    """Dropout included, and the gradient of an embedding that both ends of the model use."""
    compiled, (grads, sums, _) = gradients({"pipe": 4}, kind)
    expected, totals, _ = accumulated(8)
    assert jax.tree.structure(grads) == jax.tree.structure(expected)
    close(grads, expected)
    close(sums, totals)
    assert sums.weight == 16 * 4
    text = compiled.as_text()
    assert "collective-permute" in text
    if kind != "interleaved":
        assert "all-gather" not in text  # layers stay where they are


@pytest.mark.row("C-022")
def test_the_bubble_is_counted_in_the_schedule():
    for kind in ("gpipe", "1f1b"):
        assert bubble(4, 8, kind) == 3 / 11
        assert bubble(8, 1, kind) == 7 / 8
    assert bubble(4, 8, "interleaved") == 3 / 19


def test_a_stage_keeps_as_many_inputs_as_the_schedule_says_whatever_the_micro_batches():
    assert peak(4, 8, "gpipe") == [8] * 4
    assert peak(4, 8) == peak(4, 32) == [7, 5, 3, 1]
    assert peak(4, 2) == [2, 2, 2, 1]
    assert peak(4, 8, "interleaved") == peak(4, 32, "interleaved") == [11, 9, 7, 5]
    assert Schedule("1f1b", 4, 32).kept == 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_all_work_is_done_once_after_what_it_needs(kind, stages):
    """Features come from the tick before, and the input of what goes back is still kept."""
    for count in (stages, 2 * stages, 12) if kind == "interleaved" else (1, 2, 3, 5, 12):
        plan = Schedule(kind, stages, count)
        done, kept = {}, {}
        for t in range(plan.backward_ticks.stop):
            for stage in range(stages):
                if t in plan.forward_ticks and (work := plan.forward(t, stage)).active:
                    place = work.chunk * stages + stage
                    assert place == 0 or done[work.micro, place - 1] == t - 1
                    done[work.micro, place] = t
                    kept[stage, plan.kept_at(work)] = work
            for stage in range(stages):
                if t in plan.backward_ticks and (work := plan.backward(t, stage)).active:
                    place = work.chunk * stages + stage
                    end = place == stages * plan.chunks - 1
                    assert (
                        done[work.micro, place] if end else done[-work.micro - 1, place + 1] + 1
                    ) <= t
                    assert kept[stage, plan.kept_at(work)] == work
                    done[-work.micro - 1, place] = t
        assert len(done) == 2 * stages * plan.chunks * count


TRIPLE = pytest.param({"fsdp": 2, "pipe": 2, "model": 2}, 4, marks=pytest.mark.slow)


@pytest.mark.parametrize(("mesh", "parts"), [({"pipe": 2}, 1), TRIPLE], ids=["one", "triple"])
def test_it_composes(mesh, parts):
    _, (grads, sums, _) = gradients(mesh, parts=parts)
    close((grads, sums), accumulated(parts)[:2])


def test_memory_of_1f1b_does_not_grow_with_the_micro_batches():
    def temporaries(kind, parts):
        compiled, _ = gradients({"pipe": 2}, kind, parts, Tied(2, width=64), 16 * parts)
        return compiled.memory_analysis().temp_size_in_bytes

    features = 16 * 4 * 64 * 4
    few, many = temporaries("1f1b", 8), temporaries("1f1b", 16)
    assert many - few < features
    assert temporaries("gpipe", 16) - many > 16 * features


@dataclass(frozen=True)
class Tokens(Splits):
    """Random ones."""

    batch: int = 16
    eval_batch: int = 16

    def train(self):
        return ArraySource({"tokens": tokens(64, 0)})

    def valid(self):
        return ArraySource({"tokens": tokens(24, 1)})


BASE = Experiment(
    model=Tied(4),
    task=LanguageModel(),
    data=Tokens(),
    optim=AdamW(peak_lr=1e-2, schedule=Constant()),
    steps=10,
    accumulate=4,
)


def trained(exp, steps, devices=None):
    _, state, told = laws.trained(exp, steps, devices)
    return jax.device_get(state.params), told


def check_trained(exp, mesh, steps=3, rtol=1e-4):
    found, told = trained(replace(exp, mesh=mesh), steps)
    expected, alone = trained(exp, steps, jax.devices()[:1])
    for a, b in zip(told, alone, strict=True):
        assert a == pytest.approx(b, rel=rtol)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.slow
@pytest.mark.row("C-023")
@pytest.mark.parametrize("kind", KINDS)
def test_a_transformer_on_data_model_and_pipe_learns_as_on_one_device(kind):
    model = GPT(vocab=32, width=16, depth=4, heads=2, seq=4, dropout=0.1)
    exp = replace(BASE, model=model, pipeline=kind)
    check_trained(exp, {"data": 2, "pipe": 2, "model": 2})


VARIANTS = {
    "sam": {"optim": AdamW(peak_lr=1e-2, schedule=Constant(), sam=SAM(0.05))},
    "segments": {"model": Tied(4, remat="full", segment=4)},  # a stage has half of one
    "f16": {"precision": "f16", "model": Tied(4, remat="full"), "pipeline": "gpipe"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_it_serves_what_wraps_gradients(name):
    check_trained(
        replace(BASE, **VARIANTS[name]),
        {"pipe": 2, "data": 4},
        rtol=1e-2 if name == "f16" else 1e-4,
    )


@dataclass(frozen=True)
class Decayed(LanguageModel):
    """A loss that looks at the weights."""

    def players(self, model):
        (player,) = super().players(model)

        def loss(params, *args):
            sums, aux = player.loss(params, *args)
            size = (params["blocks_0"]["layers"]["up"]["kernel"] ** 2).sum()
            return replace(sums, total=sums.total + size), aux

        return (replace(player, loss=loss),)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": Tied(4, stacks=2)}, "player 'main' has 2; set mesh.pipe=1"),
        ({"task": Decayed()}, "'blocks_0/layers/up/kernel' outside of its layer"),
        ({"model": Tied(3)}, "size 3 does not divide into 2 parts"),
        ({"model": Tied(2), "pipeline": "interleaved"}, "depth=2 does not divide .* try 4"),
        ({"pipeline": "interleaved", "accumulate": 1}, "accumulate=1 .* 2 stages .* try 2"),
        ({"model": Tied(4, layer=Part(Layer, sows=True))}, "add to the loss .* mesh.pipe=1"),
        ({"model": Tied(4, layer=Part(Layer, normed=True))}, "batch_stats pass .* mesh.pipe=1"),
    ],
)
def test_what_cannot_be_divided_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        build(replace(BASE, mesh={"pipe": 2, "data": 4}, **changes))
