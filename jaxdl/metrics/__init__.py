"""Metrics: mergeable states of `clu.metrics`, exact across shards and ragged batches."""

from jaxdl.metrics.frechet import Frechet
from jaxdl.metrics.host import compute, merge, reduce, widen
from jaxdl.metrics.states import Accuracy, Last, Mean, Perplexity

__all__ = [
    "Accuracy",
    "Frechet",
    "Last",
    "Mean",
    "Perplexity",
    "compute",
    "merge",
    "reduce",
    "widen",
]
