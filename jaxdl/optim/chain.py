"""Optimizers as values. One builder: clip, rule, decoupled weight decay, learning rate."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import jax
import numpy as np
import optax

from jaxdl.core import tree
from jaxdl.core.errors import InputError, suggest
from jaxdl.optim.layers import per_layer
from jaxdl.optim.rate import scale_by_rate
from jaxdl.optim.sam import SAM
from jaxdl.optim.schedule import Cosine, Schedule


@dataclass(frozen=True)
class Optimizer:
    """What every optimizer shares; a subclass gives its `rule`."""

    peak_lr: float = 1e-3
    schedule: Schedule = field(default_factory=Cosine)
    clip: float = 0.0
    """Bound on the global gradient norm, for exploding gradients; 0 is off."""
    decay: float = 0.0
    """Decoupled weight decay: theta -= lr * decay * theta (arXiv:1711.05101)."""
    no_decay: tuple[str, ...] = ("*bias", "*scale")
    """Patterns over parameter paths that weight decay leaves alone."""
    sam: SAM | None = None
    """Sharpness-aware minimisation around this optimizer."""

    def __post_init__(self):
        """Refuses rates that cannot train."""
        if not 0 < self.peak_lr < math.inf:
            raise InputError(f"peak_lr={self.peak_lr} must be positive and finite.")
        for name in ("clip", "decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0; 0 is off.")
        for name in ("b1", "b2", "momentum"):
            if not 0 <= getattr(self, name, 0) < 1:
                raise InputError(f"{name}={getattr(self, name)} must lie in [0, 1).")

    def rule(self) -> optax.GradientTransformation:
        """Gradient -> direction, without rate and decay."""
        raise NotImplementedError

    def build(self, steps: int, params: Any) -> optax.GradientTransformation:
        """The Optax chain for `steps` updates of `params` (only paths and shapes are read).

        Raises: InputError where a pattern that is not the class's own matches no parameter.
        """
        paths = list(tree.flatten(params))
        for pattern in self.no_decay:
            # The class's own patterns suit any model, and few models have all they name.
            if pattern in type(self).no_decay or any(tree.matches(p, pattern) for p in paths):
                continue
            near = get_close_matches(pattern.strip("*"), paths, cutoff=0)
            raise InputError(
                f"no_decay: no parameter matches {pattern!r}; {suggest(near[0], near)}."
            )
        links = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        links.append(self.rule())
        if self.decay:
            decayed = jax.tree.map(operator.not_, tree.mask(params, self.no_decay))
            links.append(optax.add_decayed_weights(self.decay, mask=decayed))
        links.append(scale_by_rate(self.schedule.build(self.peak_lr, steps)))
        return optax.chain(*links)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled decay: theta -= lr (m / (sqrt v + eps) + decay theta).

    Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2; m and v are bias-corrected. Decay is no
    part of the gradient: as an L2 penalty it would be divided by sqrt v.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def rule(self) -> optax.GradientTransformation:
        """Bias-corrected Adam direction."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Momentum m = momentum m + g; with `nesterov` the direction is g + momentum m.

    Sutskever et al. 2013, in the form of Bengio et al. 2012 (arXiv:1212.0901, eq. 7).
    """

    momentum: float = 0.9
    nesterov: bool = True

    def rule(self) -> optax.GradientTransformation:
        """The momentum buffer, or the gradient itself when momentum is 0."""
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, nesterov=self.nesterov)


@dataclass(frozen=True)
class Lion(Optimizer):
    """sign(b1 m + (1 - b1) g), then m = b2 m + (1 - b2) g.

    Chen et al. 2023, arXiv:2302.06675, algorithm 2. Use a rate 3-10 times smaller and a decay 3-10
    times larger than AdamW's.
    """

    b1: float = 0.9
    b2: float = 0.99

    def rule(self) -> optax.GradientTransformation:
        """The sign of the interpolated momentum."""
        return optax.scale_by_lion(self.b1, self.b2)


@dataclass(frozen=True)
class Adafactor(Optimizer):
    """Factored second moments, updates clipped by RMS, rate relative to the parameter's scale.

    Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4, on each layer by itself where layers are
    stacked; a stack so deep that factoring would mix its layers is refused.
    """

    decay_rate: float = 0.8
    clip_rms: float = 1.0
    min_factored: int = 128
    """Both dimensions of a matrix must be at least this large to be factored."""
    relative: bool = True
    """Multiply updates by max(eps, RMS(parameter))."""
    stacked: tuple[str, ...] = ("*layers/*",)
    """Patterns over the paths of parameters [layers, ...], such as those of `nn.Stack`."""

    def build(self, steps: int, params: Any) -> optax.GradientTransformation:
        """The Optax chain.

        Raises: InputError also where `layers` would be one of the two dimensions factored.
        """
        for path, leaf in tree.flatten(params).items():
            if tree.matches(path, self.stacked) and leaf.ndim > 1:
                second, first = np.argsort(leaf.shape)[-2:]  # as Optax chooses
                if leaf.shape[second] >= self.min_factored and 0 in (first, second):
                    raise InputError(
                        f"min_factored={self.min_factored} would factor {path!r} "
                        f"{list(leaf.shape)} over its layers; set it to {leaf.shape[0] + 1}."
                    )
        return super().build(steps, params)

    def rule(self) -> optax.GradientTransformation:
        """The clipped, optionally relative, factored-RMS direction."""
        links = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_factored
            ),
            per_layer(optax.clip_by_block_rms(self.clip_rms), self.stacked),
        ]
        if self.relative:
            links.append(per_layer(optax.scale_by_param_block_rms(), self.stacked))
        return optax.chain(*links)
