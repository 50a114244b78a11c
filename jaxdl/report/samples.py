"""Sample predictions with the model's own confidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

SAMPLES = "samples.png"
GRID = (3, 8)


def captions(batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[str]:
    """Per example the predicted class, its probability, and the label where it differs."""
    lines = []
    for i, (said, truth) in enumerate(zip(outputs["label"], batch["label"], strict=True)):
        wrong = "" if said == truth else f", is {int(truth)}"
        lines.append(f"{int(said)} {outputs['probability'][i][said]:.1%}{wrong}")
    return lines


def draw_samples(
    directory: Path, batch: Mapping[str, Any], outputs: Mapping[str, Any]
) -> Path | None:
    """Writes samples.png of one evaluation batch (host arrays); None for what it cannot picture.

    Classifiers show images, the least certain first; generators their images; language models the
    next byte at each place, shaded by probability.
    """
    if "image" in outputs:
        figure = _images(outputs["image"], None)
    elif "image" in batch and "probability" in outputs:
        kept = np.flatnonzero(batch["mask"] > 0)
        order = kept[np.argsort(outputs["probability"].max(-1)[kept], kind="stable")]
        told = np.array(captions(batch, outputs))[order]
        figure = _images(batch["image"][order], list(told))
    elif "tokens" in batch and outputs["logits"].shape[-1] <= 256:
        figure = _text(batch["tokens"][0, 1:], outputs["token"][0], outputs["probability"][0])
    else:
        return None
    figure.savefig(directory / SAMPLES, dpi=110)
    return directory / SAMPLES


def _images(images: np.ndarray, told: list[str] | None) -> Figure:
    rows, columns = GRID
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), layout="constrained")
    low, high = float(images.min()), float(images.max())
    for i, image in enumerate(images[: rows * columns]):
        axes = figure.add_subplot(rows, columns, i + 1)
        shown = (image - low) / max(high - low, 1e-9)
        axes.imshow(
            shown.squeeze(-1) if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1
        )
        axes.axis("off")
        if told:
            axes.set_title(told[i], fontsize=9, color="firebrick" if "is" in told[i] else "black")
    return figure


def _text(truth: np.ndarray, said: np.ndarray, sure: np.ndarray, width: int = 64) -> Figure:
    """Each true byte over the predicted one; darker where the model was surer, red where it was
    wrong."""
    rows = min(8, -(-len(truth) // width))
    figure = Figure(figsize=(11, 0.62 * rows + 0.5))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.9))
    axes.set(
        xlim=(0, width),
        ylim=(2.4 * rows, 0),
        title="text, and the next byte predicted at each place",
    )
    axes.axis("off")
    for i in range(min(len(truth), rows * width)):
        x, y = i % width, 2.4 * (i // width)
        wrong = truth[i] != said[i]
        shade = (0.8, 0.1, 0.1) if wrong else (0.1, 0.4, 0.1)
        axes.text(x, y + 1, _glyph(truth[i]), family="monospace", fontsize=10)
        axes.text(
            x,
            y + 1.9,
            _glyph(said[i]),
            family="monospace",
            fontsize=10,
            color=(*shade, 0.25 + 0.75 * float(sure[i])),
        )
    return figure


def _glyph(byte: int) -> str:
    """The character of a byte, with visible spaces and line ends; a dot for what has none."""
    special = {10: "\u21b5", 32: "\u00b7", 36: r"\$"}
    return special.get(int(byte), chr(byte) if 32 < byte < 127 else "\u2022")
