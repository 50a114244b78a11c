"""The loop's overhead: what is run, and how its figures are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.bench import loop
from jaxdl.bench.peers import loop as peers
from jaxdl.bench.turns import Outcome, Turn
from jaxdl.bench.workloads import line
from jaxdl.core import dump
from jaxdl.core import load as load_dumped
from jaxdl.train.checkpoint import Checkpoints

CPU = {"bare step": 10, "jaxdl step": 14, "jaxdl loop": 16, "jaxdl loop + log": 20}
CPU |= {"jaxdl run": 25, "jaxdl loop + feeding": 56}


def outcome(name, *cpu_us):
    turns = [Turn(2e-6 * cpu, 1e-6 * cpu, None, 100.0) for cpu in cpu_us]
    return Outcome(name, {"compile_s": 1.0}, turns)


def test_overhead_is_what_a_run_costs_beyond_the_bare_step_of_its_round(monkeypatch):
    asked = {}

    def take_turns(chosen, **options):
        asked.update(options, names=[peer.name for peer in chosen])
        return {p.name: outcome(p.name, CPU[p.name], CPU[p.name] + 100) for p in chosen}

    monkeypatch.setattr(loop, "take_turns", take_turns)
    *records, merit = loop.measure_loop(rounds=2)
    assert asked["names"] == list(CPU) and asked["steps"] == 5000
    found = {record["peer"]: record["overhead_us"] for record in records}
    assert found == pytest.approx({name: cpu - 10 for name, cpu in CPU.items()})
    assert merit["loop_overhead_us"] == pytest.approx(15) and merit["target_us"] == 20
    assert merit["feeding_us"] == pytest.approx(40)


def test_the_task_is_the_mean_squared_error_and_honours_the_mask():
    exp = peers.experiment(("log", "save"))
    assert load_dumped(dump(exp)) == exp
    x, y = map(jnp.asarray, line(1))
    params = {"head": {"kernel": jnp.ones((8, 1)), "bias": jnp.ones(1)}}
    (player,) = exp.task.players(exp.model)
    sums, _ = player.loss(params, {}, {"x": x, "y": y}, jax.random.key(0))
    assert float(sums.total / sums.weight) == pytest.approx(1.0, rel=1e-5)  # y is the sum of x
    mask = np.float32([1] * 3 + [0] * 5)
    found = exp.task.evaluate(exp.model, params, {}, {"x": x, "y": y, "mask": mask}, None)
    assert float(found["loss"].compute()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("feeding", [False, True], ids=["resident", "fed"])
def test_a_turn_is_a_run_that_logs_and_saves(feeding, monkeypatch):
    seen, real = {}, peers.train

    def train(step_fn, state, batches, steps, hooks):
        found = real(step_fn, state, batches, steps, hooks)
        run = hooks[1]._run  # as in `fit`, the first waits for the device where it must
        seen.update(run=run, state=found[0])
        return found

    monkeypatch.setattr(peers, "train", train)
    monkeypatch.setattr(Checkpoints, "save", _noting(seen))
    run, _ = peers.ours(("log", "save"), feeding)
    run(700)
    assert int(seen["state"].step) == 700 and seen["saved"] == [500]
    assert len([r for r in seen["run"].records if r.split == "train"]) == 14
    assert not seen["run"].path.exists()


def _noting(seen):
    def save(self, step, *rest):
        seen.setdefault("saved", []).append(step)

    return save


@pytest.mark.slow
def test_every_part_is_measured_in_its_own_process():
    *records, merit = loop.measure_loop(peers=True, rounds=1, steps=600)
    assert [r["peer"] for r in records][:6] == list(loop.PARTS)
    assert not [r for r in records if "error" in r]
    assert merit["feeding_us"] > 0 and merit["loop_overhead_us"] > 0
    assert all(r["cpu_us"] > 0 for r in records if "missing" not in r)
