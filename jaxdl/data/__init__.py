"""Data: sources of examples, their order, transforms on the host, and the loader of batches.

A new data set is a frozen dataclass over `Splits`, or any that follows `jaxdl.core.source.Data`.
"""

from jaxdl.data.base import Splits
from jaxdl.data.digits import Digits
from jaxdl.data.draws import Draws
from jaxdl.data.loader import abstract, batches, count, local_rows
from jaxdl.data.order import permute, sequential, shuffled
from jaxdl.data.prefetch import prefetch
from jaxdl.data.source import ArraySource
from jaxdl.data.text import TextBytes
from jaxdl.data.transform import Chain, Crop, Flip, Normalize, Scale

__all__ = [
    "ArraySource",
    "Chain",
    "Crop",
    "Digits",
    "Draws",
    "Flip",
    "Normalize",
    "Scale",
    "Splits",
    "TextBytes",
    "abstract",
    "batches",
    "count",
    "local_rows",
    "permute",
    "prefetch",
    "sequential",
    "shuffled",
]
