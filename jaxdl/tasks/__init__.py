"""Tasks: what is learned. Model, loss and metrics meet here; the model is always an argument."""

from jaxdl.tasks.classification import Classification
from jaxdl.tasks.gan import Adversarial
from jaxdl.tasks.language import LanguageModel

__all__ = ["Adversarial", "Classification", "LanguageModel"]
