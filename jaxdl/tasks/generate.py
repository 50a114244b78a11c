"""Sampling from autoregressive models, one token at a time, without looking twice at any."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.errors import InputError
from jaxdl.core.task import Key, Params


def generate(
    model: Any,
    params: Params,
    prompt: Array,
    length: int,
    key: Key,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    eos: int | None = None,
) -> Array:
    """`length` tokens that continue `prompt`, sampled from softmax(logits / temperature).

    The prompt is read in one call; then each token is one call on that token alone. What the model
    remembers is its collection `cache`: keys and values of a GPT, the state of an LSTM.

    Args:
        model: its `apply` takes `decode=True`; if it has a field `seq`, that many positions.
        params: its parameters.
        prompt: tokens [B, P] int32.
        length: of the continuation.
        key: of the sampling.
        temperature: 0 takes the likeliest token.
        top_k: sample among the k likeliest tokens; 0 is all.
        eos: a row that has produced this token goes on with nothing else.

    Shapes: prompt [B, P] -> [B, length] int32.

    Raises:
        InputError: the prompt is empty, or the continuation does not fit the model's positions.
    """
    if prompt.ndim != 2 or not prompt.size:
        raise InputError(f"prompt {list(prompt.shape)} must be [B, P] with at least one token.")
    if length < 1 or temperature < 0 or top_k < 0:
        raise InputError(
            f"length={length} must be at least 1, and neither temperature={temperature} nor "
            f"top_k={top_k} negative."
        )
    seq = getattr(model, "seq", None)
    if seq is not None and prompt.shape[1] + length - 1 > seq:
        fits = max(seq + 1 - prompt.shape[1], 0)
        raise InputError(
            f"a prompt of {prompt.shape[1]} tokens and length={length} do not fit the {seq} "
            f"positions of this model; "
            + (f"length={fits} fits." if fits else f"shorten the prompt to at most {seq}.")
        )
    return _generate(model, length, temperature, top_k, eos, params, prompt, key)


@partial(jax.jit, static_argnums=range(5))
def _generate(model, length, temperature, top_k, eos, params, prompt, key) -> Array:
    def read(cache, tokens):
        logits, state = model.apply(
            {"params": params, **cache}, tokens, decode=True, mutable=["cache"]
        )
        return state, logits[:, -1].astype(jnp.float32)

    def choose(logits, key):
        if temperature == 0:
            return logits.argmax(-1).astype(jnp.int32)
        if top_k and top_k < logits.shape[-1]:
            least = jax.lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return jax.random.categorical(key, logits / temperature).astype(jnp.int32)

    def step(carry, key):
        cache, logits, done = carry
        token = choose(logits, key)
        if eos is not None:
            token = jnp.where(done, eos, token)
            done |= token == eos
        return (*read(cache, token[:, None]), done), token

    done = jnp.zeros(len(prompt), bool)
    keys = jax.random.split(key, length)
    (_, logits, done), tokens = jax.lax.scan(step, (*read({}, prompt), done), keys[:-1])
    last = choose(logits, keys[-1])
    last = last if eos is None else jnp.where(done, eos, last)
    return jnp.concatenate([tokens.T, last[:, None]], axis=1)
