"""Decoding image files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def decode(file: Path | bytes, size: int = 0, grey: bool = False) -> np.ndarray:
    """An image file's pixels, uint8 [H, W, 3], or [H, W, 1] where `grey` is set.

    With a `size`, the largest centred square is cut out and resized to it: [size, size, C].

    Grey becomes colour and the other way round; what is transparent shows white; 16 bits keep their
    upper 8; a camera's EXIF orientation is applied; of an animation the first picture is taken.

    Raises: what Pillow does for a damaged file, mostly OSError; `readable` knows all of it.
    """
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        if size:
            image.draft(None, (size, size))  # JPEG: decode at a fraction that is still as large
        image = _eight_bits(ImageOps.exif_transpose(image))
        image = image.convert("L" if grey else "RGB")
        if size and image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    return pixels[..., None] if grey else pixels


def readable(content: bytes) -> str:
    """What is wrong with an image file's content, found by decoding all of it; "" if nothing."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()  # PNG: the checksums, which decoding leaves out
        decode(content)
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return ""


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 8 bits for 16, without the clipping of Pillow's conversion; white for transparent."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of no known range")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image
