"""Optimizers, schedules, SAM and averages, built on Optax."""

from jaxdl.optim.chain import SGD, Adafactor, AdamW, Lion, Optimizer
from jaxdl.optim.ema import ema_update
from jaxdl.optim.players import Adversaries
from jaxdl.optim.rate import Rate, rates, reduce_rates, scale_by_rate
from jaxdl.optim.sam import SAM
from jaxdl.optim.schedule import Constant, Cosine, InverseSqrt, Linear, Steps

__all__ = [
    "SAM",
    "SGD",
    "Adafactor",
    "AdamW",
    "Adversaries",
    "Constant",
    "Cosine",
    "InverseSqrt",
    "Linear",
    "Lion",
    "Optimizer",
    "Rate",
    "Steps",
    "ema_update",
    "rates",
    "reduce_rates",
    "scale_by_rate",
]
