"""Sample predictions with the model's own confidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

SAMPLES = "samples.png"
GRID = (3, 8)
"""Rows and columns of images."""
ROWS, WIDTH = 8, 64
"""Lines of text and bytes in each."""


def captions(batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[str]:
    """Per example the predicted class, its probability, and the label where it differs."""
    truths, lines = batch.get("label", outputs["label"]), []
    for i, (said, truth) in enumerate(zip(outputs["label"], truths, strict=True)):
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
    if _are_images(outputs.get("image")):
        figure = _images(outputs["image"], None)
    elif _are_images(batch.get("image")) and _ranks(outputs, label=1, probability=2):
        order = np.argsort(outputs["probability"].max(-1), kind="stable")
        if "mask" in batch:
            order = order[batch["mask"][order] > 0]
        told = np.array(captions(batch, outputs))[order]
        figure = _images(batch["image"][order], list(told))
    elif (
        _ranks(batch, tokens=2)
        and _ranks(outputs, logits=3, token=2, probability=2)
        and outputs["logits"].shape[-1] <= 256
        and outputs["token"].size >= WIDTH
    ):
        figure = _text(
            batch["tokens"][:, 1:].ravel(), *(outputs[k].ravel() for k in ("token", "probability"))
        )
    else:
        return None
    figure.savefig(directory / SAMPLES, dpi=110)
    return directory / SAMPLES


def _ranks(arrays: Mapping[str, Any], **ranks: int) -> bool:
    """Whether all of these are there, of these ranks."""
    return all(name in arrays and np.ndim(arrays[name]) == rank for name, rank in ranks.items())


def _are_images(images: Any) -> bool:
    """Whether matplotlib shows them: [B, H, W, C], grey or in colours."""
    return np.ndim(images) == 4 and images.shape[-1] in (1, 3, 4)


def _images(images: np.ndarray, told: list[str] | None) -> Figure:
    rows, columns = GRID
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), layout="constrained")
    if told:
        figure.suptitle("predicted class and its probability, the least certain first")
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


def _text(truth: np.ndarray, said: np.ndarray, sure: np.ndarray) -> Figure:
    """Each true byte above the predicted one, which is green where right and darker when surer."""
    truth, said, sure = (
        x[: len(x) // WIDTH * WIDTH].reshape(-1, WIDTH)[:ROWS] for x in (truth, said, sure)
    )
    figure = Figure(figsize=(11, 0.55 * len(truth) + 0.6))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(0, WIDTH), ylim=(2.4 * len(truth), -1.6))
    axes.axis("off")
    axes.text(
        0, -0.6, "text, and below it the next byte predicted (green right, red wrong, pale unsure)"
    )
    for (row, x), byte in np.ndenumerate(truth):
        right = said[row, x] == byte
        color = (0.1, 0.4, 0.1) if right else (0.8, 0.1, 0.1)
        shade = (*color, 0.25 + 0.75 * float(sure[row, x]))
        for y, glyph, ink in ((1.0, byte, "black"), (1.9, said[row, x], shade)):
            axes.text(x, 2.4 * row + y, _glyph(glyph), family="monospace", fontsize=10, color=ink)
    return figure


def _glyph(byte: int) -> str:
    """The character of a byte, with visible spaces and line ends; a dot for what has none."""
    special = {10: "\u21b5", 32: "\u00b7", 36: r"\$"}
    return special.get(int(byte), chr(byte) if 32 < byte < 127 else "\u2022")
