"""The floor: the same networks written by hand in flax.linen, and one jitted, donated step.

Nothing but model, loss, gradient and AdamW: no metrics, no guard, no mesh, no names on dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from jaxdl.bench import workloads
from jaxdl.bench.workloads import DECAY, LR
from jaxdl.core.flops import flops


def step(family: str, **shape: Any) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Runs n updates of the workload on one resident batch; the loss of the last.

    Its FLOPs per step, told once ready, stand for every peer: the networks are the same.
    """
    work = workloads.of(family, **shape)
    model = MODELS[family](work)
    x, y = map(jnp.asarray, work.arrays())
    tx = optax.adamw(LR, weight_decay=DECAY)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    params, stats = variables["params"], variables.get("batch_stats", {})
    state = params, stats, tx.init(params)

    def update(state, x, y):
        params, stats, opt = state

        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            logits, changed = model.apply(variables, x, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), changed.get("batch_stats", {})

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), stats, opt), value

    counted = flops(jax.make_jaxpr(update)(state, x, y)).total()
    compiled = jax.jit(update, donate_argnums=0).lower(state, x, y).compile()

    def run(n: int) -> float:
        nonlocal state
        for _ in range(n):
            state, value = compiled(state, x, y)
        jax.block_until_ready(state)
        return float(value)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return run, {"params": count, "flops": counted, "device": jax.devices()[0].device_kind}


def _conv(features: int, kernel: int, stride: int = 1) -> nn.Conv:
    return nn.Conv(features, (kernel,) * 2, stride, padding=kernel // 2, use_bias=False)


def _norm() -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=False, momentum=0.9)


class ResNet(nn.Module):
    """See `workloads.ResNet`. Shapes: x [B, H, W, 3] -> logits [B, classes]."""

    work: workloads.ResNet

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits."""
        work = self.work
        if work.stem == "imagenet":
            x = nn.relu(_norm()(_conv(work.width, 7, 2)(x)))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        else:
            x = nn.relu(_norm()(_conv(work.width, 3)(x)))
        for stage, depth in enumerate(work.stages):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                x = self._residual(x, work.width * 2**stage, stride)
        return nn.Dense(work.classes)(x.mean((1, 2)))

    def _residual(self, x: Array, width: int, stride: int) -> Array:
        if self.work.block == "basic":
            y = nn.relu(_norm()(_conv(width, 3, stride)(x)))
            y = _norm()(_conv(width, 3)(y))
        else:
            y = nn.relu(_norm()(_conv(width, 1)(x)))
            y = nn.relu(_norm()(_conv(width, 3, stride)(y)))
            y = _norm()(_conv(4 * width, 1)(y))
        if x.shape != y.shape:
            x = _norm()(_conv(y.shape[-1], 1, stride)(x))
        return nn.relu(x + y)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP. Shapes: x [B, T, D] -> [B, T, D]."""

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Features."""
        batch, time, width = x.shape
        qkv = nn.Dense(3 * width)(nn.LayerNorm()(x))
        q, k, v = jnp.split(qkv.reshape(batch, time, 3 * self.heads, -1), 3, axis=2)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + nn.Dense(width)(y.reshape(batch, time, width))
        hidden = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))
        return x + nn.Dense(width)(hidden)


class ViT(nn.Module):
    """See `workloads.ViT`. Shapes: x [B, H, W, 3] -> logits [B, classes]."""

    work: workloads.ViT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits."""
        work, size = self.work, (self.work.patch,) * 2
        x = nn.Conv(work.width, size, size)(x).reshape(len(x), -1, work.width)
        first = self.param("class", nn.initializers.zeros, (1, 1, work.width))
        x = jnp.concatenate([jnp.tile(first, (len(x), 1, 1)), x], axis=1)
        places = (1, work.tokens, work.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), places)
        for _ in range(work.depth):
            x = TransformerBlock(work.heads, causal=False)(x)
        return nn.Dense(work.classes)(nn.LayerNorm()(x)[:, 0])


class GPT(nn.Module):
    """See `workloads.GPT`. Shapes: tokens [B, T] -> logits [B, T, vocab]."""

    work: workloads.GPT

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Logits."""
        work, small = self.work, nn.initializers.normal(0.02)
        table = nn.Embed(work.vocab, work.width, embedding_init=small)
        places = nn.Embed(work.seq, work.width, embedding_init=small)
        x = table(tokens) + places(jnp.arange(work.seq))[None]
        for _ in range(work.depth):
            x = TransformerBlock(work.heads, causal=True)(x)
        return table.attend(nn.LayerNorm()(x))


class LSTM(nn.Module):
    """See `workloads.LSTM`. Shapes: tokens [B, T] -> logits [B, T, vocab]."""

    work: workloads.LSTM

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Logits."""
        x = nn.Embed(self.work.vocab, self.work.width)(tokens)
        for _ in range(self.work.depth):
            x = nn.RNN(nn.OptimizedLSTMCell(self.work.width))(x)
        return nn.Dense(self.work.vocab)(x)


MODELS = {"resnet": ResNet, "vit": ViT, "gpt": GPT, "lstm": LSTM}
