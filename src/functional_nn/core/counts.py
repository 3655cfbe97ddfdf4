"""Whole numbers: a check of their bounds, and their plural form. Modules imported before JAX can use both."""

from __future__ import annotations

from numbers import Integral
from typing import TypeGuard


def is_count(value: object, *, least: int = 1, most: int | None = None) -> TypeGuard[int]:
    """Whether a value is an integer from ``least`` to ``most``; True and False are not.

    >>> is_count(3), is_count(0), is_count(True), is_count(2.0)
    (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return least <= int(value) and (most is None or int(value) <= most)


def counted(number: int, word: str) -> str:
    """Formats a number with a word in the singular or the plural.

    >>> counted(1, "epoch"), counted(2, "epoch")
    ('1 epoch', '2 epochs')
    """
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
