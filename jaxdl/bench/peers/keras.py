"""Keras 3 on its JAX backend: functional models of the same layers, trained by `fit`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "allow"  # Keras relies on it

import jax
import keras
import numpy as np
from keras import layers, ops

from jaxdl.bench import workloads
from jaxdl.bench.workloads import DECAY, LINE_BATCH, LR, line

Tensor = Any


def step(family: str, **shape: Any) -> tuple[Callable[[int], float], dict[str, Any]]:
    """`fit` for n steps on copies of one batch; the loss as Keras reports it."""
    work = workloads.of(family, **shape)
    model = MODELS[family](work)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(LR, weight_decay=DECAY), loss)
    x, y = work.arrays()

    def run(n: int) -> float:
        return _fit(model, np.concatenate([x] * n), np.concatenate([y] * n), work.batch)

    count = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return run, {"params": count, "device": jax.devices()[0].device_kind}


def loop() -> tuple[Callable[[int], float], dict[str, Any]]:
    """`fit` for n steps of one linear layer."""
    model = keras.Sequential([keras.Input((8,)), layers.Dense(1)])
    model.compile(keras.optimizers.AdamW(LR, weight_decay=DECAY), "mse")

    def run(n: int) -> float:
        return _fit(model, *line(n), LINE_BATCH)

    return run, {}


def _fit(model: keras.Model, x: np.ndarray, y: np.ndarray, batch: int) -> float:
    history = model.fit(x, y, batch_size=batch, epochs=1, shuffle=False, verbose=0)
    return float(history.history["loss"][-1])


def _resnet(work: workloads.ResNet) -> keras.Model:
    image = keras.Input((work.size, work.size, 3))
    if work.stem == "imagenet":
        x = _conv_norm(image, work.width, 7, 2, relu=True)
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    else:
        x = _conv_norm(image, work.width, 3, relu=True)
    for stage, depth in enumerate(work.stages):
        for i in range(depth):
            x = _residual(x, work.block, work.width * 2**stage, 2 if stage and not i else 1)
    logits = layers.Dense(work.classes)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, logits)


def _residual(x: Tensor, block: str, width: int, stride: int) -> Tensor:
    if block == "basic":
        y = _conv_norm(x, width, 3, stride, relu=True)
        y = _conv_norm(y, width, 3)
    else:
        y = _conv_norm(x, width, 1, relu=True)
        y = _conv_norm(y, width, 3, stride, relu=True)
        y = _conv_norm(y, 4 * width, 1)
    if x.shape != y.shape:
        x = _conv_norm(x, y.shape[-1], 1, stride)
    return layers.ReLU()(layers.Add()([x, y]))


def _conv_norm(
    x: Tensor, features: int, kernel: int, stride: int = 1, *, relu: bool = False
) -> Tensor:
    # "same" pads strided convolutions unevenly, which the published networks do not.
    if kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2)(x)
    x = layers.Conv2D(features, kernel, stride, use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


class Positions(layers.Layer):
    """Adds learned positions, after a class token where `first` asks for one.

    Shapes: x [B, T, D] -> [B, T, D] or [B, T + 1, D].
    """

    def __init__(self, first: bool = False):
        """See the class."""
        super().__init__()
        self.first = first

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        time, width = shape[1] + self.first, shape[2]
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.table = self.add_weight(shape=(1, time, width), initializer=small)
        if self.first:
            self.token = self.add_weight(shape=(1, 1, width), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        """The sum."""
        if self.first:
            token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
            x = ops.concatenate([token, x], axis=1)
        return x + self.table


def _block(x: Tensor, heads: int, causal: bool) -> Tensor:
    width = x.shape[-1]
    normed = layers.LayerNormalization(epsilon=1e-6)(x)
    attention = layers.MultiHeadAttention(heads, width // heads)
    x = x + attention(normed, normed, use_causal_mask=causal)
    hidden = layers.Dense(4 * width)(layers.LayerNormalization(epsilon=1e-6)(x))
    return x + layers.Dense(width)(keras.activations.gelu(hidden, approximate=True))


def _vit(work: workloads.ViT) -> keras.Model:
    image = keras.Input((work.size, work.size, 3))
    x = layers.Conv2D(work.width, work.patch, work.patch)(image)
    x = Positions(first=True)(layers.Reshape((-1, work.width))(x))
    for _ in range(work.depth):
        x = _block(x, work.heads, causal=False)
    x = layers.LayerNormalization(epsilon=1e-6)(x)[:, 0]
    return keras.Model(image, layers.Dense(work.classes)(x))


def _gpt(work: workloads.GPT) -> keras.Model:
    tokens = keras.Input((work.seq,), dtype="int32")
    small = keras.initializers.RandomNormal(stddev=0.02)
    table = layers.ReversibleEmbedding(work.vocab, work.width, embeddings_initializer=small)
    x = Positions()(table(tokens))
    for _ in range(work.depth):
        x = _block(x, work.heads, causal=True)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(tokens, table(x, reverse=True))


def _lstm(work: workloads.LSTM) -> keras.Model:
    tokens = keras.Input((work.seq,), dtype="int32")
    x = layers.Embedding(work.vocab, work.width)(tokens)
    for _ in range(work.depth):
        x = layers.LSTM(work.width, return_sequences=True)(x)
    return keras.Model(tokens, layers.Dense(work.vocab)(x))


MODELS = {"resnet": _resnet, "vit": _vit, "gpt": _gpt, "lstm": _lstm}
