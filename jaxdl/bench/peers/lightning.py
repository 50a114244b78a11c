"""Lightning's trainer around one linear layer, without its loggers and checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch.nn import functional as F

from jaxdl.bench.workloads import DECAY, LR, line


class Line(lightning.LightningModule):
    """Mean squared error of a linear layer."""

    def __init__(self):
        """The layer, 8 inputs to 1."""
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """The loss of a batch."""
        x, y = batch
        return F.mse_loss(self.layer(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), LR, weight_decay=DECAY, fused=True)


def loop() -> tuple[Callable[[int], None], dict[str, Any]]:
    """A new trainer for n steps on one batch."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    batch = tuple(map(torch.from_numpy, line(1)))

    def run(n: int) -> None:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Line(), torch.utils.data.DataLoader([batch] * n, batch_size=None))

    return run, {}
