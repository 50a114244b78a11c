"""jaxdl: plan, train, survive and compare deep-learning experiments in JAX."""

__version__ = "0.1.0"
