"""What a figure of matplotlib shows, for tests of plots."""

import io

import numpy as np
import PIL.Image


def drawn(figure):
    """The figure, which is saved as a real PNG that shows something, of a size that fits a screen or a page.

    A warning about its layout is an error.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    with PIL.Image.open(stream) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert 100 < min(pixels.shape[:2]) <= max(pixels.shape[:2]) < 4000
    assert len(np.unique(pixels @ (65536, 256, 1))) > 5
    return figure


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
