"""Vision models against Hugging Face transformers 5.23 (torch 2.13), by mapped weights."""

import jax
import numpy as np
import pytest

from jaxdl.models import resnet, vit
from jaxdl.models.zoo import create
from jaxdl.parallel import unbox

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow


def randomised(model):
    """`model` in evaluation mode with random weights, biases and batch statistics, none at rest."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.endswith("running_mean") or (value.ndim == 1 and name.endswith("bias")):
                value.normal_(0, 0.1)
            elif value.ndim == 1 and value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return model.eval()


def compare(theirs, ours, variables, x):
    """Logits of both, to 1e-4 of their spread; the mapped tree has our shapes."""
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, unbox(shapes))
    with torch.no_grad():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).logits.numpy()
    found = jax.jit(ours.apply)(variables, x)
    assert np.abs(found - expected).max() / np.abs(expected).std() < 1e-4


def images(size):
    return np.random.default_rng(0).standard_normal((2, size, size, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param(
            "resnet18",
            {"layer_type": "basic", "depths": (2, 2, 2, 2), "hidden_sizes": (64, 128, 256, 512)},
            marks=pytest.mark.row("N-015"),
        ),
        ("resnet50", {}),
    ],
)
@pytest.mark.parametrize("size", [224, 65])
def test_resnet_is_that_of_huggingface(name, config, size):
    config = transformers.ResNetConfig(num_labels=1000, **config)
    theirs = randomised(transformers.ResNetForImageClassification(config))
    variables = resnet.from_huggingface(theirs.state_dict())
    compare(theirs, create(name), variables, images(size))


@pytest.mark.row("N-036")
@pytest.mark.parametrize("hub", [False, True], ids=["state dict", "file on the hub"])
def test_vit_is_that_of_huggingface(hub, tmp_path):
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    config = transformers.ViTConfig(num_labels=1000, **sizes)
    theirs = randomised(transformers.ViTForImageClassification(config))
    weights = theirs.state_dict()
    if hub:
        safetensors = pytest.importorskip("safetensors.numpy")
        theirs.save_pretrained(tmp_path)
        weights = safetensors.load_file(tmp_path / "model.safetensors")
    params = vit.from_huggingface(weights)
    compare(theirs, create("vit_s16", eps=1e-12), {"params": params}, images(224))
