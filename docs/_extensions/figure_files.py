"""Reads the figures of ``docs/figures``. This module needs no Sphinx, so tests can use it."""

from __future__ import annotations

import re
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "figures"
SHARED = ("shared.css", "shared.js")
"""Files that every figure takes in, where it names them in a comment of its own line."""


def read_figure(name: str) -> str:
    """The HTML of a figure, with its whole style and script: ``figures/NAME.html`` and the shared files.

    Raises:
        ValueError: if the figure does not take in each shared file once.
    """
    figure = (FIGURES / f"{name}.html").read_text("utf-8")
    for file in SHARED:
        text = (FIGURES / file).read_text("utf-8")
        figure, count = re.subn(
            rf"^ *(// {file}|/\* {file} \*/)$", lambda _, text=text: text, figure, flags=re.MULTILINE
        )
        if count != 1:
            raise ValueError(f"{name}.html names {file} {count} times instead of once")
    return figure
