"""Reads the figures of ``docs/figures``. This module needs no Sphinx, so tests can use it."""

from __future__ import annotations

import re
import runpy
from functools import cache
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "figures"
SHARED = ("shared.css", "shared.js")
"""Files that every figure takes in, where it names them in a comment of its own line."""


@cache
def read_figure(name: str) -> str:
    """The HTML of a figure, with its whole style and script.

    It is ``figures/NAME.html``, which takes in the shared files, and what ``script()`` of ``figures/NAME.py`` returns,
    if there is such a file.

    Raises:
        ValueError: if the figure does not take in each file once.
    """
    figure = (FIGURES / f"{name}.html").read_text("utf-8")
    texts = {file: (FIGURES / file).read_text("utf-8") for file in SHARED}
    maker = FIGURES / f"{name}.py"
    if maker.exists():
        texts[maker.name] = runpy.run_path(str(maker))["script"]()
    for file, text in texts.items():
        figure, count = re.subn(
            rf"^ *(// {file}|/\* {file} \*/)$", lambda _, text=text: text, figure, flags=re.MULTILINE
        )
        if count != 1:
            raise ValueError(f"{name}.html names {file} {count} times instead of once")
    return figure
