import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.core import InputError
from jaxdl.models.zoo import create
from jaxdl.tasks.generate import generate

KEY, VOCAB, LENGTH = jax.random.key(0), 31, 6
PROMPT = jax.random.randint(KEY, (3, 4), 0, VOCAB)
MODELS = {
    "gpt": create("gpt_tiny", vocab=VOCAB, width=16, depth=2, heads=2, seq=9),
    "lstm": create("lstm", vocab=VOCAB, width=8, hidden=16, depth=2),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def start(model):
    """Parameters so spread that no two tokens are nearly as likely."""
    shapes = nn.unbox(jax.eval_shape(model.init, KEY, PROMPT))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(KEY, len(leaves))
    spread = [0.8 * jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, spread)


def again(model, params, key, *, temperature, top_k):
    """What `generate` promises, by reading the whole prefix for every token."""
    prefix, first = jnp.zeros((3, 9), jnp.int32).at[:, :4].set(PROMPT), PROMPT.shape[1]
    read, tokens = jax.jit(model.apply), []
    for i, draw in enumerate(jax.random.split(key, LENGTH)):
        logits = read({"params": params}, prefix)[:, first + i - 1]  # sees nothing of what follows
        if top_k:
            logits = jnp.where(logits < jnp.sort(logits)[:, -top_k, None], -jnp.inf, logits)
        if temperature:
            tokens.append(jax.random.categorical(draw, logits / temperature))
        else:
            tokens.append(logits.argmax(-1))
        prefix = prefix.at[:, first + i].set(tokens[-1])
    return jnp.stack(tokens, axis=1)


@pytest.mark.row("N-049", "N-058", "X-069")
@every_model
@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, 0), (1.3, 5)], ids=["greedy", "sampled"])
def test_a_continuation_is_that_of_reading_the_whole_prefix_again(model, temperature, top_k):
    params, key = start(model), jax.random.key(7)
    how = {"temperature": temperature, "top_k": top_k}
    found = generate(model, params, PROMPT, LENGTH, key, **how)
    np.testing.assert_array_equal(found, again(model, params, key, **how))
    assert found.shape == (3, LENGTH) and len(jnp.unique(found)) > 1


@pytest.mark.row("N-049", "N-058")
@every_model
def test_logits_by_the_cache_are_those_of_the_whole_sequence(model):
    params = start(model)
    apply = jax.jit(model.apply, static_argnames=("decode", "mutable"))
    whole, parts, cache = apply({"params": params}, PROMPT), [], {}
    for part in (PROMPT[:, :3], PROMPT[:, 3:]):
        logits, cache = apply({"params": params, **cache}, part, decode=True, mutable="cache")
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-5)


class Recorder:
    """Counts in its cache, and keeps the shapes of what it is given to read."""

    def __init__(self):
        self.shapes = set()

    def apply(self, variables, tokens, *, decode, mutable):
        assert decode and mutable == ["cache"]
        self.shapes.add(tokens.shape)
        count = variables.get("cache", jnp.int32(0)) + tokens.shape[1]
        return jax.nn.one_hot(jnp.full(tokens.shape, count), VOCAB), {"cache": count}


@pytest.mark.row("N-058", "X-069")
def test_the_prompt_is_read_once_and_then_each_token_alone():
    model = Recorder()
    found = generate(model, {}, PROMPT, LENGTH, KEY, temperature=0.0)
    assert model.shapes == {(3, 4), (3, 1)}
    np.testing.assert_array_equal(found, np.tile(np.arange(4, 4 + LENGTH), (3, 1)))


@pytest.mark.row("N-058")
@every_model
def test_a_row_ends_at_eos(model):
    params = start(model)
    free = np.asarray(generate(model, params, PROMPT, LENGTH, KEY))
    eos = int(free[0, 2])
    found = np.asarray(generate(model, params, PROMPT, LENGTH, KEY, eos=eos))
    for row, ended in zip(free, found, strict=True):
        n = list(row).index(eos) if eos in row else LENGTH
        np.testing.assert_array_equal(ended[:n], row[:n])
        assert (ended[n:] == eos).all()
    assert (found[0, 2:] == eos).all()


@pytest.mark.parametrize(
    ("prompt", "length", "kw", "says"),
    [
        (PROMPT, 7, {}, "4 tokens and length=7 do not fit the 9 positions .*length=6 fits"),
        (jnp.zeros((1, 10), int), 1, {}, "shorten the prompt to at most 9"),
        (PROMPT[:, :0], 1, {}, r"prompt \[3, 0\] must be"),
        (PROMPT, 0, {}, "length=0 must be at least 1"),
        (PROMPT, 1, {"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_what_cannot_be_generated_is_refused(prompt, length, kw, says):
    with pytest.raises(InputError, match=says):
        generate(MODELS["gpt"], {}, prompt, length, KEY, **kw)
