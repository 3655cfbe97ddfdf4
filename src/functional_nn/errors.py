"""The errors a user meets: what was given, what was expected, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """An argument that cannot be used.

    Args:
        argument: the name of what is wrong, as the caller knows it (``labels``, ``weight``, a file's path).
        expected: what it has to be.
        given: what it is.
        remedy: what to do about it, as a sentence.

    >>> raise InputError("rate", "a number in [0, 1)", 1.5, "Give the share to drop.")
    Traceback (most recent call last):
        ...
    functional_nn.errors.InputError: rate: expected a number in [0, 1), got 1.5. Give the share to drop.
    """

    def __init__(self, argument: str, expected: object, given: object, remedy: str = ""):
        super().__init__(argument, expected, given, remedy)
        self.argument, self.expected, self.given, self.remedy = argument, expected, given, remedy
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "/".join(self.path)
        place = f"{where}: {self.argument}" if where else self.argument
        sentence = f"{place}: expected {self.expected}, got {self.given}."
        return f"{sentence} {self.remedy}" if self.remedy else sentence


class DataError(InputError):
    """A file or a data set that cannot be used; ``argument`` is its path and, where known, the byte."""


class FormulaMissing(NotImplementedError):
    """A hand-derived formula was asked of a plain function that has none."""


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Says which layer an error comes from; nested calls build the path ``outer/inner``."""
    try:
        yield
    except InputError as error:
        error.path = (name, *error.path)
        raise
    except Exception as error:
        error.add_note(f"(in layer {name})")
        raise


def suggest(word: str, known: Iterable[str]) -> str:
    """A remedy for a mistyped name: the nearest known one first, then all of them.

    >>> suggest("adm", ["sgd", "adam"])
    'Did you mean adam? Known: adam, sgd.'
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(word, names, n=1)
    question = f"Did you mean {nearest[0]}? " if nearest else ""
    return f"{question}Known: {', '.join(names)}."
