"""Errors that say what was expected, what was given, in which layer, and what to do, and the check that raises them.

Below them: two mistakes with remedies of their own, images with channels first and optional libraries that are missing.
Modules that are imported before JAX use this one, so it must not import JAX.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TypeGuard

MOST_SHOWN = 80
"""Characters of a value, or of a file's content, that a message repeats."""


def shortened(text: object) -> str:
    r"""A text as messages repeat it: at most 80 characters, with escapes in place of control characters.

    A file could otherwise write megabytes through an error message.

    >>> shortened("red \x1b[31m"), shortened("x" * 1000)[-6:]
    ('red \\x1b[31m', 'x…xxxx')
    """
    text = str(text)
    # Escapes make a text longer, so it is cut before and after they are put in.
    start = escaped(text[:MOST_SHOWN])
    if len(text) <= MOST_SHOWN and len(start) <= MOST_SHOWN:
        return start
    end = escaped(text[-4:])[-4:]
    return f"{start[: MOST_SHOWN - 1 - len(end)]}…{end}"


def shown(value: object) -> str:
    """A value as messages show it: an array by type and shape, anything else as its ``repr``, on one line.

    >>> import numpy as np
    >>> shown(np.zeros((2, 3))), shown([[1], 2.5]), shown("x" * 100)[-5:]
    ('float64 of shape (2, 3)', '[[1], 2.5]', "…xxx'")
    """
    try:
        dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
        if dtype is not None and isinstance(shape, tuple):
            if type(value).__name__.endswith("Tracer"):
                return shortened(f"a traced {dtype} of shape {shape}")
            return shortened(f"{dtype} of shape {tuple(shape)}" if shape else f"{value} ({dtype})")
        if _has_arrays(value):
            entries = list(value.items()) if isinstance(value, dict) else [("", part) for part in value]
            parts = [f"{shortened(repr(name))}: " * bool(name) + shortened(shown(part)) for name, part in entries[:5]]
            parts += ["…"] * (len(entries) > len(parts))
            name = type(value).__name__ if hasattr(value, "_fields") else ""
            return f"{{{', '.join(parts)}}}" if isinstance(value, dict) else f"{name}({', '.join(parts)})"
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of too many digits
        return f"a {type(value).__name__} that is too large to show"
    except Exception:  # an object's own repr
        return f"a {type(value).__name__} that cannot be shown"
    return shortened(" ".join(text.split()))


def _has_arrays(value: object) -> TypeGuard[dict[object, object] | tuple[object, ...]]:
    """Whether there is an array in a tuple or a dict, or in one inside it."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return any(hasattr(part, "dtype") or _has_arrays(part) for part in parts)


def escaped(text: str) -> str:
    r"""A text with escapes in place of control characters, which could be codes for the terminal.

    >>> escaped("red \x1b[31m")
    'red \\x1b[31m'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class InputError(ValueError):
    """An argument that cannot be used.

    Args:
        argument: the name of what is wrong, as the caller knows it (``labels``, ``weight``, a file's path).
        expected: what it has to be.
        given: what it is.
        remedy: what to do about it, as a sentence.

    >>> import functional_nn as fnn
    >>> raise fnn.InputError("rate", "a number in [0, 1)", 1.5, "Give the share to drop.")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: rate: expected a number in [0, 1), got 1.5. Give the share to drop.
    """

    def __init__(self, argument: str, expected: object, given: object, remedy: str = ""):
        super().__init__(argument, expected, given, remedy)
        self.argument, self.expected, self.given, self.remedy = argument, expected, given, remedy
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "/".join(self.path)
        place = f"{where}: {self.argument}" if where else self.argument
        sentence = f"{place}: expected {self.expected}, got {self.given}."
        return escaped(f"{sentence} {self.remedy}" if self.remedy else sentence)


class DataError(InputError):
    """A file or a data set that cannot be used; ``argument`` is its path and, where known, the byte."""


def check(
    argument: str, value: object, expected: object, holds: object, remedy: str = "", kind: type[InputError] = InputError
) -> None:
    """Requires that a condition holds for an argument. Otherwise the error shows the value.

    >>> check("rate", 1.5, "a number in [0, 1)", 0 <= 1.5 < 1)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: rate: expected a number in [0, 1), got 1.5.
    """
    if not holds:
        raise kind(argument, expected, shown(value), remedy)


check_data = partial(check, kind=DataError)
"""The same check for a file or a data set."""


def check_no_gaps(argument: str, value: object) -> None:
    """Refuses a masked array of NumPy, also in a list. Most conversions put the hidden numbers in place of the gaps."""
    # Masked arrays exist only if NumPy's module for them is imported. Another thread may be importing it right now, so
    # it is not imported here.
    kind = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    if isinstance(value, kind):
        raise InputError(argument, "an array of numbers", "a masked array", "Fill its gaps, or leave them out.")
    if kind and isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        for part in value:
            check_no_gaps(argument, part)


class FormulaMissing(NotImplementedError):
    """A layer or a function has no hand-derived formula, and one is needed. The message begins with its path."""

    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        message = super().__str__()
        return f"{'/'.join(self.path)}: {message}" if self.path else message


@contextmanager
def reading(
    place: object,
    expected: str,
    remedy: str = "",
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = (OSError, ValueError, RecursionError),
    given: str = "a damaged one",
    kind: type[InputError] = DataError,
) -> Iterator[None]:
    """Turns errors that a file can cause into a ``DataError``. An ``InputError`` is raised as it is.

    Args:
        place: the path of the file and, where known, the place in it.
        expected, remedy: as for ``InputError``.
        errors: the classes of the errors.
        given: the words before the first line of the error's message, except for an error of the system.
        kind: the class of the new error.
    """
    try:
        yield
    except (InputError, FormulaMissing):
        raise
    except errors as error:
        text = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0].rstrip(".")
        # Messages of Python's other errors need the class, as in KeyError: 'weight'.
        if not text or not isinstance(error, OSError | ValueError):
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        text = shortened(text) if isinstance(error, OSError) else f"{given} ({shortened(text)})"
        raise kind(str(place), expected, text, remedy) from error


failing_as = partial(reading, errors=Exception, given="one that raises", kind=InputError)
"""The same for an argument whose code is not of this package."""


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Says which layer an error comes from; nested calls build the path ``outer/inner``."""
    try:
        yield
    except (InputError, FormulaMissing) as error:
        error.path = (name, *error.path)
        raise
    except Exception as error:
        error.add_note(f"(in layer {name})")
        raise


class OtherProcessFailed(RuntimeError):
    """Raised in a process that was fine itself, because another process of the same run has failed."""


class LostProcess(OtherProcessFailed):
    """Raised if another process has gone without a word, or is a stranger, so that nothing can be agreed with it."""

    ADVICE = (
        "JAX failed in a run of several processes. Probably one of them has ended, or cannot be reached. Start all of "
        "them again; with checkpoints the run continues from the last saved epoch."
    )
    """What to say if JAX fails. It does not tell why in a way that a program could read."""


TRANSPOSE = "The images look channels first, as in PyTorch. Write x.transpose(0, 2, 3, 1)."


def looks_channels_first(shape: Sequence[int]) -> bool:
    """Whether a batch of images seems to have the axes (batch, channels, height, width).

    It has one or three channels on axis 1, and no usual number of channels on the last axis.

    >>> looks_channels_first((64, 3, 32, 32)), looks_channels_first((64, 32, 32, 3))
    (True, False)
    """
    # A symbolic size stands for any number, so nothing can be said about it.
    if len(shape) != 4 or not all(isinstance(size, int) for size in shape):
        return False
    _, channels, height, width = shape
    return channels in (1, 3) and min(height, width) > channels and width not in (1, 3, 4)


@contextmanager
def explaining_channels_first(shape: Sequence[int]) -> Iterator[None]:
    """Puts the transposition into the message of an InputError, if images of this shape look channels first."""
    try:
        yield
    except InputError as error:
        if looks_channels_first(shape):
            error.remedy = TRANSPOSE
        raise


def imported(module: str, argument: str, *, extra: str = "") -> ModuleType:
    """A module of another library.

    Args:
        module: the name by which it is imported.
        argument: what needs it, for the message.
        extra: the extra of this package that installs it; by default of the same name.

    Raises:
        InputError: if it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        remedy = f"Install it: pip install 'functional-nn[{extra or package}]'"
        raise InputError(argument, f"{package} to be installed", str(error), remedy) from None


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if it is missing."""
    import importlib.metadata  # slow, and rarely needed

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


LIBRARIES = ("functional-nn", "jax", "jaxlib", "numpy", "optax", "tensorflow-datasets")


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: installed_version(name) for name in LIBRARIES}


REPEAT_SECONDS = 1.0
"""Within this time, a second signal counts as a repetition: the command ``timeout`` sends each signal twice."""
