"""Hooks: what happens between updates. Each owns its cadence; none knows another."""

from jaxdl.train.hooks.evaluate import Evaluate
from jaxdl.train.hooks.histograms import Histograms
from jaxdl.train.hooks.log import Log
from jaxdl.train.hooks.plateau import EarlyStop, ReduceOnPlateau
from jaxdl.train.hooks.save import Save
from jaxdl.train.hooks.track_mlflow import MLflow
from jaxdl.train.hooks.track_wandb import WandB

__all__ = [
    "EarlyStop",
    "Evaluate",
    "Histograms",
    "Log",
    "MLflow",
    "ReduceOnPlateau",
    "Save",
    "WandB",
]
