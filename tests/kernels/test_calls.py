"""Programs for accelerators hold exactly the kernel calls that their layers need."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from jaxdl.core import Experiment
from jaxdl.data import ArraySource, Splits
from jaxdl.models.gpt import GPT
from jaxdl.models.vit import ViT
from jaxdl.optim import AdamW
from jaxdl.plan import devices
from jaxdl.plan.hlo import runs
from jaxdl.tasks import Classification, LanguageModel
from jaxdl.train import build

DEPTH, BATCH = 3, 8
ATTENTION = {"tpu": {"forward": 1, "again": 1, "backward": 1}}
"""Calls of a layer; on a GPU the way back has a kernel for queries, and one for keys and values."""
ATTENTION["gpu"] = ATTENTION["tpu"] | {"backward": 2}
NORM = {"forward": 1, "again": 1, "backward": 1}


@dataclass(frozen=True)
class Zeros(Splits):
    """A batch of tokens, or of images."""

    batch: int = BATCH
    images: bool = False

    def train(self):
        if self.images:
            labels = np.zeros(BATCH, np.int32)
            return ArraySource({"image": np.zeros((BATCH, 64, 64, 3), np.float32), "label": labels})
        return ArraySource({"tokens": np.zeros((BATCH, 257), np.int32)})


SIZES = {"width": 256, "depth": DEPTH, "heads": 4, "remat": "full"}
GPT_ = Experiment(GPT(256, seq=256, **SIZES), LanguageModel(), Zeros(), AdamW(1e-3), steps=9)
MODELS = {
    "gpt": GPT_,
    "vit": replace(
        GPT_,
        model=ViT(patch=4, classes=16, **SIZES),
        task=Classification(),
        data=Zeros(images=True),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("target", "call"),
    [
        pytest.param("v5e:2x2", "tpu_custom_call", marks=pytest.mark.tpu_aot),
        pytest.param("h200:4", "__gpu$xla.gpu.triton", marks=pytest.mark.gpu_aot),
    ],
)
def test_a_step_under_fsdp_and_tp_with_remat_holds_no_call_too_many(name, target, call):
    exp = replace(MODELS[name], precision="bf16", mesh={"fsdp": 2, "model": 2})
    program = build(exp, devices(target))
    text = program.step.lower(program.abstract, program.batch).compile().as_text()
    last = NORM["forward"] + NORM["backward"]
    attention = ATTENTION["gpu" if "gpu" in call else "tpu"]
    expected = DEPTH * (sum(attention.values()) + 2 * sum(NORM.values())) + last
    assert runs(text, f'custom_call_target="{call}"') == expected
