"""What HTML pages have in common: one file that needs no other, their style, and pictures in their colors."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functional_nn.core.errors import InputError
from functional_nn.storage.files import check_path, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_libraries(libraries: Sequence[str]) -> None:
    """Refuses where what the extra ``[plots]`` brings is missing."""
    for library in libraries:
        try:
            __import__(library)
        except ImportError as error:
            remedy = "Install them: pip install 'functional-nn[plots]'."
            raise InputError("write_page", "the libraries of the extra [plots]", f"no {error.name}", remedy) from None


def write_template(
    template: str, path: str | Path, filters: Mapping[str, Callable[..., Any]], values: Mapping[str, Any]
) -> None:
    """Fills a template of this folder, which extends ``page.html`` with its style, and writes it.

    Raises:
        InputError: the file cannot be written.
    """
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters |= filters
    page = environment.get_template(template).render(style=(folder / "page.css").read_text("utf-8"), **values)
    try:
        write_whole(check_path("path", path), page)
    except OSError as error:
        raise InputError("path", "a file that can be written", f"{path} ({error.strerror})") from None


def as_svg(figure: Figure, name: str, label: str, colors: Mapping[str, str]) -> str:
    """A figure as SVG within a page.

    Args:
        figure: it is drawn here.
        name: makes the names inside the picture its own, the same in each drawing.
        label: what it shows, for those who cannot see it.
        colors: what stands in the page for the figure's colors; black is the page's ink.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()[stream.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| xmlns(:\w+)?=\"[^\"]*\"", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\" height=\"[^\"]*\"", r"\1", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for color, own in {**colors, "#000000": "currentColor"}.items():
        svg = svg.replace(f": {color}", f": {own}")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).replace("#595959", "currentColor")
