"""The figures of this package, which show themselves in a notebook.

This module imports matplotlib, so it is imported inside the functions that draw.
"""

from __future__ import annotations

import io

from matplotlib.figure import Figure

PIXELS_PER_INCH = 96
"""CSS pixels: a figure is as wide in a notebook as it is on paper."""
SHARPNESS = 2
"""Pixels of the picture per CSS pixel, for screens with many pixels."""


class ShownFigure(Figure):
    """A matplotlib figure that shows itself in a notebook.

    It is made without ``pyplot``, so that drawing leaves no windows and no state behind. But IPython learns how to
    show figures only when ``pyplot`` is imported.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, and its width in CSS pixels. Without a height, it keeps its shape on a narrow page."""
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=SHARPNESS * PIXELS_PER_INCH)
        return content.getvalue(), {"width": round(self.get_figwidth() * PIXELS_PER_INCH)}
