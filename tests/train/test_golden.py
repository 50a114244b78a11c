"""One fixed run whose losses must not move: the guard of every refactoring.

Losses are exact per jax version and CPU: compilers order sums as they like. An unknown pair is
held to 1e-5 of the stored ones and prints its own.

Run:    python tests/train/test_golden.py     # after a change that was meant
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "loss.json"
RECORD = f"python {Path(__file__).resolve().relative_to(ROOT)}"
STEPS = 20
WIDER = ("avx", "fma", "f16c", "sse4", "amx", "sve", "asimd", "bf16", "neon")
"""What XLA:CPU chooses instructions by."""
KIND = ("cpu family", "model", "stepping", "CPU part")
"""Its libraries also go by the generation of the CPU."""


def machine() -> str:
    """jax version, architecture and a digest of the CPU's generation and vector instructions."""
    import jax

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    listed = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    flags = sorted(flag for flag in listed.split() if any(name in flag for name in WIDER))
    kind = [line for line in lines if line.partition(":")[0].strip() in KIND]
    told = [*flags, *sorted({"".join(line.split()) for line in kind})]
    digest = hashlib.sha256(" ".join(told).encode()).hexdigest()[:8]
    return f"jax {jax.__version__} {platform.machine()} {digest}"


def losses() -> list[str]:
    """The training loss of each update in hex: a ResNet with batch norm, crops, decay and EMA."""
    import jax

    from jaxdl import data
    from jaxdl.core import Experiment
    from jaxdl.data import Crop, Digits, Scale
    from jaxdl.models.resnet import ResNet
    from jaxdl.optim import AdamW, Cosine
    from jaxdl.tasks import Classification
    from jaxdl.train import build

    exp = Experiment(
        model=ResNet(stages=(1, 1), width=8, classes=10),
        task=Classification(smoothing=0.1),
        data=Digits(batch=32, train_transform=(Scale(0, 16), Crop(1))),
        optim=AdamW(peak_lr=1e-2, decay=0.05, clip=1.0, schedule=Cosine(warmup=5)),
        steps=STEPS,
        ema=0.9,
    )
    program = build(exp, jax.devices()[:1])
    state, found = program.init(), []
    get = data.batches(
        exp.data.train(), batch=32, seed=0, transform=exp.data.transform("train"), mesh=program.mesh
    )
    for n in range(STEPS):
        state, metrics = program.step(state, get(n))
        found.append(float(metrics["loss"].compute()).hex())
    return found


def stored() -> dict[str, list[str]]:
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


def record() -> None:
    GOLDEN.parent.mkdir(exist_ok=True)
    kept = stored() | {machine(): losses()}
    GOLDEN.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(f"{GOLDEN}: {machine()}")


def values(hexes: list[str]) -> np.ndarray:
    return np.array([float.fromhex(text) for text in hexes])


@pytest.fixture(scope="module")
def found() -> list[str]:
    return losses()


def test_the_loss_of_twenty_steps_has_not_moved(found):
    known, mine = stored(), machine()
    if mine in known:
        assert found == known[mine], f"if this was meant: {RECORD}"
        return
    assert known, f"no losses are stored; record them: {RECORD}"
    nearest = min(np.abs(values(found) / values(other) - 1).max() for other in known.values())
    print(f"unknown machine {mine}; record it: {RECORD}\n{json.dumps({mine: found})}")
    assert nearest < 1e-5, f"{mine}: {json.dumps(found)}"


def test_the_golden_run_learns_and_every_machine_agrees(found):
    assert len(found) == STEPS and values(found)[-1] < 0.9 * values(found)[0]
    for name, other in stored().items():
        np.testing.assert_allclose(values(found), values(other), rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_process_with_other_devices_and_threads_finds_the_same_bits(found):
    """What the suite sets (eight devices, its compilation cache) leaves no trace in the numbers."""
    ours = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_NUMPY_RANK_PROMOTION")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    code = f"import runpy; print(*runpy.run_path({__file__!r})['losses']())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == found, done.stderr[-2000:]


if __name__ == "__main__":
    record()
