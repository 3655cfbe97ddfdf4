"""Pictures inside a page: examples, and the weights of the first layer, as PNG in the page's own text."""

from __future__ import annotations

import base64
import io
import math

import numpy as np

MOST_UNITS = 64
"""The largest number of units whose weights are shown."""

ORANGE, WHITE, BLUE = (179, 88, 6), (247, 247, 247), (33, 102, 172)
"""The colors of the lowest weight, of 0, and of the highest weight: those of signs in all pictures."""


def as_png(pixels: np.ndarray) -> str:
    """The address of a picture that holds the picture itself.

    Args:
        pixels: uint8 (height, width, channels), with 1, 3 or 4 channels.

    >>> as_png(np.zeros((2, 2, 1), np.uint8))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def shown_pixels(image: np.ndarray) -> np.ndarray:
    """An image as people see it: gray images dark on bright, and one of the numbers of channels that PNG has."""
    channels = image.shape[-1]
    if channels == 1:
        return 255 - image
    return image if channels in (3, 4) else 255 - image[..., :1]


def weights_picture(weight: np.ndarray) -> np.ndarray:
    """The weights of the first units beside each other, as a picture: blue above 0, orange below 0.

    Args:
        weight: (height, width, channels, units).

    Returns:
        uint8 (height, width, 4). There is a transparent pixel between two units.
    """
    units = np.moveaxis(np.asarray(weight, np.float32)[..., :MOST_UNITS], -1, 0).mean(axis=-1)
    count, height, width = units.shape
    columns = min(count, 16 if height <= 16 else 8)
    rows = math.ceil(count / columns)
    # A few very large weights would make all others look white.
    largest = float(np.quantile(np.abs(units), 0.995)) or 1.0
    strength = np.clip(units / largest, -1, 1)[..., None]
    colors = np.where(
        strength > 0,
        np.array(WHITE) + strength * (np.array(BLUE) - np.array(WHITE)),
        np.array(WHITE) - strength * (np.array(ORANGE) - np.array(WHITE)),
    )
    picture = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for place, unit in enumerate(colors):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        picture[top : top + height, left : left + width, :3] = np.rint(unit)
        picture[top : top + height, left : left + width, 3] = 255
    return picture
