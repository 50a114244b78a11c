"""Training: the pure step, the shell around it, and the run directory."""

from jaxdl.train.batches import training_batches
from jaxdl.train.build import build
from jaxdl.train.evaluate import evaluate, evaluation_batches
from jaxdl.train.fit import Fitted, fit
from jaxdl.train.hooks import (
    EarlyStop,
    Evaluate,
    Histograms,
    Log,
    MLflow,
    ReduceOnPlateau,
    Save,
    WandB,
)
from jaxdl.train.program import Program
from jaxdl.train.state import State
from jaxdl.train.step import make_step

__all__ = [
    "EarlyStop",
    "Evaluate",
    "Fitted",
    "Histograms",
    "Log",
    "MLflow",
    "Program",
    "ReduceOnPlateau",
    "Save",
    "State",
    "WandB",
    "build",
    "evaluate",
    "evaluation_batches",
    "fit",
    "make_step",
    "training_batches",
]
