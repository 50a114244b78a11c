"""The base of an experiment's data, for those that need little."""

from __future__ import annotations

from dataclasses import dataclass

from jaxdl.core.source import Plan, Source, Transform
from jaxdl.data.split import check_split
from jaxdl.data.transform import Chain


@dataclass(frozen=True)
class Splits:
    """Defaults for the `Data` protocol: give `train()`, and what else there is.

    A classifier's examples have the leaves `image` (of any shape) and `label` (an integer);
    `ArraySource` makes them of numpy arrays. Its `sizes={"label": n}` lets a model with too few
    outputs be refused.
    """

    batch: int = 64
    eval_batch: int = 0

    def train(self) -> Source | None:
        """Examples to learn from."""
        raise NotImplementedError

    def valid(self) -> Source | None:
        """Examples to choose by; none."""
        return None

    def test(self) -> Source | None:
        """Examples to report on; none."""
        return None

    def plan(self, split: str) -> Plan | None:
        """The order of examples; None shuffles each epoch of training."""
        return None

    def transform(self, split: str) -> Transform | None:
        """None: examples as they are."""
        return None


class Transformed:
    """For a frozen dataclass with the fields `train_transform` and `eval_transform`.

    Each is all that its splits go through.
    """

    train_transform: tuple[Transform, ...]
    eval_transform: tuple[Transform, ...]

    def plan(self, split: str) -> Plan | None:
        """None: the default shuffle."""
        check_split(split)
        return None

    def transform(self, split: str) -> Chain:
        """The chain of `train_transform`, or of `eval_transform` for the other splits."""
        check_split(split)
        return Chain(self.train_transform if split == "train" else self.eval_transform)
