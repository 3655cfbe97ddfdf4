"""The figures of this package: they show themselves in a notebook, and ``show`` opens them elsewhere.

This module imports matplotlib, so it is imported inside the functions that draw.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from functional_nn.core.display import in_notebook
from functional_nn.core.errors import InputError

PIXELS_PER_INCH = 96
"""CSS pixels: a figure is as wide in a notebook as it is on paper."""
SHARPNESS = 2
"""Pixels of the picture per CSS pixel, for screens with many pixels."""


class ShownFigure(Figure):
    """A matplotlib figure that shows itself in a notebook.

    It is made without ``pyplot``, so that drawing leaves no windows and no state behind. But IPython learns how to
    show figures only when ``pyplot`` is imported, and matplotlib's own ``show`` requires it.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, and its width in CSS pixels. Without a height, it keeps its shape on a narrow page."""
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=SHARPNESS * PIXELS_PER_INCH)
        return content.getvalue(), {"width": round(self.get_figwidth() * PIXELS_PER_INCH)}

    def show(self, warn: bool = True) -> None:
        """Displays the figure in a notebook. Elsewhere it is opened in the system's viewer, as a temporary PNG file.

        Raises:
            InputError: if there is no screen, or no viewer.
        """
        if in_notebook():
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            display(self)
            return
        remedy = "Write figure.savefig('picture.png') and open the file. In a notebook, figures show themselves."
        if not _has_screen():
            raise InputError("show", "a screen", "none", remedy)
        with tempfile.NamedTemporaryFile(prefix="functional_nn_", suffix=".png", delete=False) as file:
            self.savefig(file, format="png")  # kept, because the viewer reads it later
        import click

        if click.launch(file.name) != 0:
            Path(file.name).unlink()
            raise InputError("show", "a program that opens pictures", "none", remedy)


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
