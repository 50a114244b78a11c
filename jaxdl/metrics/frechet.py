"""Frechet distance between two sets of feature vectors, exact over any split into batches."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxdl.core.checks import check_shapes
from jaxdl.metrics.states import Additive


@flax.struct.dataclass
class Frechet(Additive):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of Gaussian fits, in squared feature units.

    Heusel et al. 2017, arXiv:1706.08500, eq. 6; covariances are divided by n. Kept as a count, sums
    [2, D] and sums of outer products [2, D, D]; row 0 is real, row 1 generated.
    """

    weight: Array
    first: Array
    second: Array

    @classmethod
    def from_model_output(cls, real: Array, fake: Array, mask: Array, **_: Any) -> Frechet:
        """State of real and fake features [B, D], counting rows where mask [B] is not 0."""
        check_shapes({"real": real, "fake": fake, "mask": mask}, real="B D", fake="B D", mask="B")
        keep = mask > 0
        both = jnp.stack([real, fake]).astype(jnp.float32)
        both = jnp.where(keep[None, :, None], both, 0.0)
        return cls(
            weight=keep.sum(dtype=jnp.float32),
            first=both.sum(1),
            # Accelerators multiply float32 in fewer bits unless told.
            second=jnp.einsum("sbi,sbj->sij", both, both, precision="highest"),
        )

    def compute(self) -> Any:
        """The distance; NaN below two examples."""
        n = float(self.weight)
        if n < 2:
            return np.float64("nan")
        mean = np.asarray(self.first, np.float64) / n
        moment = np.asarray(self.second, np.float64) / n
        real, fake = (m - np.outer(u, u) for m, u in zip(moment, mean, strict=True))
        root = _sqrt(real)
        cross = np.trace(_sqrt(root @ fake @ root))
        return np.sum((mean[0] - mean[1]) ** 2) + np.trace(real) + np.trace(fake) - 2 * cross


def _sqrt(matrix: np.ndarray) -> np.ndarray:
    """Square root of a positive semi-definite matrix; rounding below zero is cut off."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
