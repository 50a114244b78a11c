"""Data: sources of examples, their order, transforms on the host, and the loader of batches.

A new data set is a frozen dataclass over `Splits`, or any that follows `jaxdl.core.source.Data`.
"""

from jaxdl.data.base import Splits
from jaxdl.data.digits import Digits
from jaxdl.data.draws import Draws
from jaxdl.data.folder import ImageFolder
from jaxdl.data.loader import abstract, batches, count, local_rows, placed
from jaxdl.data.order import permute, sequential, shuffled
from jaxdl.data.prefetch import prefetch
from jaxdl.data.records import Records, write_records
from jaxdl.data.source import ArraySource
from jaxdl.data.text import Text
from jaxdl.data.tfds import MNIST, TFDS, FashionMNIST
from jaxdl.data.tokens import BytePairs, Bytes
from jaxdl.data.transform import Chain, Crop, Flip, Normalize, Scale
from jaxdl.data.workers import Workers

__all__ = [
    "MNIST",
    "TFDS",
    "ArraySource",
    "BytePairs",
    "Bytes",
    "Chain",
    "Crop",
    "Digits",
    "Draws",
    "FashionMNIST",
    "Flip",
    "ImageFolder",
    "Normalize",
    "Records",
    "Scale",
    "Splits",
    "Text",
    "Workers",
    "abstract",
    "batches",
    "count",
    "local_rows",
    "permute",
    "placed",
    "prefetch",
    "sequential",
    "shuffled",
    "write_records",
]
