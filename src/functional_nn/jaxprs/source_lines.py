"""The source lines that the equations of a traced program come from."""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import NamedTuple

import jax
from jax.extend.core import JaxprEqn

PACKAGE = Path(__file__).parents[1]
OF_JAX = (str(Path(jax.__file__).parent), "<frozen")
"""The prefixes of paths of files that belong to JAX, and of code without a file."""
TRACING = (str(PACKAGE / "jaxprs"), str(PACKAGE / "gradients"))
"""The prefixes of paths of files that trace functions and contain no formulas of their own."""


class Place(NamedTuple):
    """A source line: the path of its file, its number, and the function that it is in."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} ({self.function})"

    @property
    def code(self) -> str:
        """The text of the line; "" if the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()


def place_of(equation: JaxprEqn) -> Place | None:
    """The innermost source line outside of JAX that made the equation."""
    return next(iter(_places(equation)), None)


def _places(equation: JaxprEqn) -> list[Place]:
    traceback = equation.source_info.traceback
    places = []
    for frame in traceback.frames if traceback else ():
        if frame.file_name.startswith(TRACING):
            break  # what follows is the call that traces the program
        if not frame.file_name.startswith(OF_JAX):
            places.append(Place(frame.file_name, frame.line_num, frame.function_name))
    return places


def is_of_jax(equation: JaxprEqn) -> bool:
    """Whether an equation calls one of JAX's own functions, such as ``jax.numpy.linalg.norm``."""
    if equation.primitive.name != "jit":
        return False
    return is_file_of_jax(equation.params["jaxpr"].jaxpr.debug_info.func_filename)


def is_file_of_jax(path: str | None) -> bool:
    """Whether a path, such as that of a traced program's function, is that of a file of JAX.

    JAX caches the traces of its own functions, so their source lines may belong to another caller.
    """
    return (path or "").startswith(OF_JAX[0])
