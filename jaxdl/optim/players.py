"""Optimizers of tasks with several players."""

from __future__ import annotations

from dataclasses import dataclass

from jaxdl.optim.chain import Optimizer


@dataclass(frozen=True)
class Adversaries:
    """One optimizer for each player of a GAN."""

    generator: Optimizer
    critic: Optimizer
