"""PyTorch on CPU, eager: modules of the same layers, AdamW(fused=True), one-process DataLoader.

Shapes follow torch: images are [B, C, H, W].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jaxdl.bench import workloads
from jaxdl.bench.peers.inputs import AUGMENT, Built, Examples, runner
from jaxdl.bench.workloads import DECAY, LR, line

torch.set_num_threads(len(os.sched_getaffinity(0)))


def step(family: str, **shape: Any) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Runs n updates of the workload on one batch; the loss of the last."""
    work = workloads.of(family, **shape)
    model = MODELS[family](work)
    x, y = map(torch.from_numpy, work.arrays())
    y = y.long()
    if work.unit == "examples":
        x = x.permute(0, 3, 1, 2).contiguous()
    return _training(model, lambda: F.cross_entropy(model(x).flatten(0, -2), y.flatten()))


def loop() -> tuple[Callable[[int], float], dict[str, Any]]:
    """Runs n updates of one linear layer."""
    model = nn.Linear(8, 1)
    x, y = map(torch.from_numpy, line(1))
    return _training(model, lambda: F.mse_loss(model(x), y))


def _training(
    model: nn.Module, loss_of: Callable[[], Tensor]
) -> tuple[Callable[[int], float], dict[str, Any]]:
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=DECAY, fused=True)

    def run(n: int) -> float:
        for _ in range(n):
            loss = loss_of()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run, {"params": sum(p.numel() for p in model.parameters()), "device": "cpu"}


def inputs(task: str, batch: int, size: int, images: int, folder: str) -> Built:
    """A `DataLoader` without worker processes."""
    examples, augment, rng = Examples(task, size, images, folder), AUGMENT[task], _rng()

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return len(examples)

        def __getitem__(self, i):
            return augment(examples[i], rng)

    loader = torch.utils.data.DataLoader(Augmented(), batch, shuffle=True, drop_last=True)

    def generate() -> Iterator[Tensor]:
        while True:
            yield from loader

    return runner(generate(), batch, size)


def _conv_norm(inputs: int, features: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, features, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(features))


class Residual(nn.Module):
    """A basic or bottleneck block. Shapes: [B, C, H, W] -> [B, out, H / stride, W / stride]."""

    def __init__(self, block: str, inputs: int, width: int, stride: int):
        """See the class."""
        super().__init__()
        if block == "basic":
            self.out = width
            parts = [_conv_norm(inputs, width, 3, stride), nn.ReLU(), _conv_norm(width, width, 3)]
        else:
            self.out = 4 * width
            parts = [_conv_norm(inputs, width, 1), nn.ReLU()]
            parts += [_conv_norm(width, width, 3, stride), nn.ReLU()]
            parts += [_conv_norm(width, self.out, 1)]
        self.branch = nn.Sequential(*parts)
        same = inputs == self.out and stride == 1
        self.shortcut = nn.Identity() if same else _conv_norm(inputs, self.out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features."""
        return F.relu(self.branch(x) + self.shortcut(x))


def _resnet(work: workloads.ResNet) -> nn.Sequential:
    if work.stem == "imagenet":
        parts = [_conv_norm(3, work.width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    else:
        parts = [_conv_norm(3, work.width, 3), nn.ReLU()]
    inputs = work.width
    for stage, depth in enumerate(work.stages):
        for i in range(depth):
            stride = 2 if stage and not i else 1
            parts.append(Residual(work.block, inputs, work.width * 2**stage, stride))
            inputs = parts[-1].out
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, work.classes)
    )


class Block(nn.Module):
    """Pre-norm attention and MLP. Shapes: x [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, heads: int, causal: bool):
        """See the class."""
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class ViT(nn.Module):
    """See `workloads.ViT`. Shapes: x [B, 3, H, W] -> logits [B, classes]."""

    def __init__(self, work: workloads.ViT):
        """See the class."""
        super().__init__()
        self.patches = nn.Conv2d(3, work.width, work.patch, work.patch)
        self.first = nn.Parameter(torch.zeros(1, 1, work.width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, work.tokens, work.width))
        blocks = [Block(work.width, work.heads, causal=False) for _ in range(work.depth)]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(work.width))
        self.head = nn.Linear(work.width, work.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.blocks(x)[:, 0])


class GPT(nn.Module):
    """See `workloads.GPT`. Shapes: tokens [B, T] -> logits [B, T, vocab]."""

    def __init__(self, work: workloads.GPT):
        """See the class."""
        super().__init__()
        self.tokens = nn.Embedding(work.vocab, work.width)
        self.positions = nn.Embedding(work.seq, work.width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        blocks = [Block(work.width, work.heads, causal=True) for _ in range(work.depth)]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(work.width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.blocks(x), self.tokens.weight)


class LSTM(nn.Module):
    """See `workloads.LSTM`. Shapes: tokens [B, T] -> logits [B, T, vocab]."""

    def __init__(self, work: workloads.LSTM):
        """See the class."""
        super().__init__()
        self.tokens = nn.Embedding(work.vocab, work.width)
        self.lstm = nn.LSTM(work.width, work.width, work.depth, batch_first=True)
        self.head = nn.Linear(work.width, work.vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.lstm(self.tokens(tokens))[0])


MODELS = {"resnet": _resnet, "vit": ViT, "gpt": GPT, "lstm": LSTM}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
