"""HTML pages from templates: their style, plots as SVG in their colors, pictures as PNG. A page needs no other file."""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.core.errors import escaped, imported, reading
from functional_nn.reports.plots.axes import import_matplotlib, with_plain_texts
from functional_nn.storage.files import check_path, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_libraries() -> None:
    """Raises an error if a library of the extra ``[plots]`` is missing."""
    import_matplotlib()
    for library in ("jinja2", "latex2mathml", "markdown_it"):
        imported(library, "page", extra="plots")


def write_template(
    template: str,
    path: str | Path,
    filters: Mapping[str, Callable[..., str]],
    values: Mapping[str, object],
    *,
    follow_links: bool = False,
) -> None:
    """Fills a template of this folder, and writes the page. The templates extend ``page.html``, which has the style.

    Args:
        template: its name.
        path: the file.
        filters: functions for the template, by name.
        values: the values in the template, by name.
        follow_links: for a path that the user named for the page alone; see ``write_whole``.

    Raises:
        DataError: if the file cannot be written.
    """
    import jinja2

    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= filters
    page = environment.get_template(template).render(style=(folder / "page.css").read_text("utf-8"), **values)
    remedy = "Let its folder be written to, or copy the folder and use the copy."
    page = "\n".join(map(escaped, page.split("\n")))  # names and messages may come from a stranger's file
    with reading(path, "a file that can be written", remedy, errors=OSError):
        write_whole(check_path("path", path), page, follow_links=follow_links)


def as_svg(figure: Figure, name: str, label: str, colors: Mapping[str, str]) -> str:
    """Draws a figure as SVG for a page.

    Args:
        figure: the figure.
        name: a text that makes the identifiers in the picture unique in the page. They do not change between runs.
        label: a description for people who cannot see the picture.
        colors: the page's color for each color of the figure. Black becomes the color of the page's text.
    """
    import matplotlib

    stream = io.StringIO()
    # Texts stay texts, in the font of the page.
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": escaped(name)}):
        # The font may lack letters of a name, and long texts leave no room.
        warnings.filterwarnings("ignore", "Glyph .* missing from|constrained_layout not applied")
        with_plain_texts(figure).savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    # The picture becomes a part of the page. There a style element would hold for all of it, and an identifier may come
    # only once. Without width and height, the picture is as wide as its column.
    svg = stream.getvalue()[stream.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| xmlns(:\w+)?=\"[^\"]*\"", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\" height=\"[^\"]*\"", r"\1", svg)
    svg = re.sub(r'<g id="(?!model-)[^"]*"', "<g", svg)
    svg = re.sub(r' font-family: [^;"]*;', "", svg)
    svg = re.sub(r' d="([^"]*)"', _short_path, svg)
    for color, page_color in {**colors, "#000000": "currentColor"}.items():
        svg = svg.replace(f": {color}", f": {page_color}")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1).replace("#595959", "currentColor")


def number(value: float | None, digits: int = 4) -> str:
    """A number with a few significant digits, as a page shows it.

    >>> number(0.123456), number(1e-7), number(None), number(float("nan"))
    ('0.1235', '1e−7', '–', 'not finite')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def _short_path(path: re.Match[str]) -> str:
    """A path in one line, with its numbers rounded to hundredths of a point."""
    rounded = re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.2f}", path[1])
    return f' d="{" ".join(rounded.split())}"'


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
