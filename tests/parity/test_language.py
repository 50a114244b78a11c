"""Language models against the libraries they are known from, by mapped weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.gpt import GPT, from_huggingface
from jaxdl.models.zoo import create

torch = pytest.importorskip("torch")
R = np.random.default_rng(0)


def huggingface(**kw):
    """A GPT-2 of `transformers` with random weights, larger than initial ones, biases included."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **kw)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


@pytest.mark.row("N-049")
@pytest.mark.parametrize(
    ("vocab", "width", "depth", "heads", "seq"),
    [(101, 48, 3, 4, 32), pytest.param(997, 768, 1, 12, 1024)],
    ids=["small", "true width"],
)
def test_gpt_is_that_of_huggingface(vocab, width, depth, heads, seq):
    theirs = huggingface(
        vocab_size=vocab, n_embd=width, n_layer=depth, n_head=heads, n_positions=seq
    )
    params = from_huggingface({k: v.numpy() for k, v in theirs.state_dict().items()})
    ours = GPT(vocab, width, depth, heads, seq)
    tokens = R.integers(0, vocab, (2, 32))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    shapes = jax.eval_shape(ours.init, jax.random.key(0), tokens)["params"]
    assert [x.shape for x in jax.tree.leaves(params)] == [x.shape for x in jax.tree.leaves(shapes)]
    found = jax.jit(ours.apply)({"params": params}, jnp.asarray(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.row("N-058")
def test_the_lstm_is_that_of_torch():
    theirs = torch.nn.LSTM(24, 32, num_layers=2, batch_first=True)
    table, head = torch.nn.Embedding(53, 24), torch.nn.Linear(32, 53)
    tokens = R.integers(0, 53, (3, 20))
    with torch.no_grad():
        expected = head(theirs(table(torch.tensor(tokens)))[0]).numpy()

    def array(weight):
        return weight.detach().numpy().T

    params = {
        "tokens": {"embedding": array(table.weight).T},
        "head": {"kernel": array(head.weight), "bias": array(head.bias)},
    }
    for i in range(2):
        names = "input_kernel", "hidden_kernel", "input_bias", "hidden_bias"
        params[f"lstm_{i}"] = dict(zip(names, map(array, theirs.all_weights[i]), strict=True))
    ours = create("lstm", vocab=53, width=24, hidden=32, depth=2)
    found = jax.jit(ours.apply)({"params": params}, jnp.asarray(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
