"""The vocabulary of an experiment: what it is, how it is edited, written, read and loaded."""

from jaxdl.core.change import change
from jaxdl.core.codec import dump, load
from jaxdl.core.errors import InputError
from jaxdl.core.experiment import Experiment
from jaxdl.core.hook import Stop
from jaxdl.core.loading import load_experiment
from jaxdl.core.part import Part
from jaxdl.core.task import Player, Sums

__all__ = [
    "Experiment",
    "InputError",
    "Part",
    "Player",
    "Stop",
    "Sums",
    "change",
    "dump",
    "load",
    "load_experiment",
]
