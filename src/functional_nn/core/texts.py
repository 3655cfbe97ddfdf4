"""Texts for people: names in words, counted things, aligned tables, and suggestions for misspelled names.

Modules that are imported before JAX use this one, so it must not import JAX.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TypeGuard

from functional_nn.core.errors import shortened

WIDTH = 80
"""Printed lines have at most this number of characters."""


def words(name: str) -> str:
    """The name of a metric or of a setting, as people read it.

    >>> words("test_accuracy")
    'test accuracy'
    """
    return name.replace("_", " ")


def aligned(rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> list[str]:
    """The lines of a table, with two spaces between its columns.

    Args:
        rows: the texts of the cells.
        numbers_from: the first column of numbers, which end at the right side of their column; None if there is none.

    >>> print("\\n".join(aligned([("layer", "size"), ("dense_0", "15")], numbers_from=1)))
    layer    size
    dense_0    15
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = len(widths) if numbers_from is None else numbers_from

    def line(row: Sequence[str]) -> str:
        cells = *map(str.ljust, row[:texts], widths), *map(str.rjust, row[texts:], widths[texts:])
        return "  ".join(cells).rstrip()

    return list(map(line, rows))


def cut_to_end(text: str, width: int) -> str:
    """A text of at most ``width`` characters. A longer one is cut at its start: paths differ at their ends.

    >>> cut_to_end("residual_0/dense_0", 10)
    '…0/dense_0'
    """
    return text if len(text) <= width else f"…{text[1 - width :]}"


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


SHORT = 3
"""The length of a word for which a name of the same length, with the same first letter, is similar enough."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, None where no name is similar.

    >>> nearest("adma", ["adamax", "adam", "sgd"]), nearest("ReLU", ["relu6", "relu"]), nearest("x", ["adam"])
    ('adam', 'relu', None)
    """
    by_lower_case = {name.lower(): name for name in known}
    similar = difflib.get_close_matches(word.lower(), sorted(by_lower_case), n=5)
    if not similar and len(word) == SHORT:
        # Two wrong letters of three are too many for difflib. They are often the same letter twice, as in cmm for cnn.
        similar = [name for name in by_lower_case if len(name) == SHORT and name[0] == word[0].lower()]
    if not similar:
        return None
    # Of the similar names, which come in the order of their likeness, the first that is as long or nearly so.
    return by_lower_case[min(similar, key=lambda name: abs(len(name) - len(word)) > 1)]


MOST_NAMES, NEAR = 40, 5
"""With more known names than the first number, a message lists only the nearest, as many as the second number."""

MOST_COMPARED = 20_000
"""This many names are compared in about half a second. A table can have millions of columns: only the first are."""


def suggest(word: str, known: Iterable[str]) -> str:
    """A remedy for a mistyped name: the nearest known name, then a list of all names, or of the nearest.

    >>> suggest("adm", ["sgd", "adam"])
    'Did you mean adam? Known: adam, sgd.'
    """
    known = list(known)
    names = sorted(map(shortened, known[:MOST_COMPARED]))
    meant = nearest(shortened(word), names)
    question = f"Did you mean {meant}? " if meant else ""
    if len(names) > MOST_NAMES:
        names = [*difflib.get_close_matches(shortened(word), names, NEAR, cutoff=0.0), f"… {len(known) - NEAR} more"]
    return f"{question}Known: {', '.join(names)}."


def missing_name(name: str, top_level: Iterable[str], namespaces: Mapping[str, Iterable[str]]) -> AttributeError:
    """The error for ``functional_nn.name``, with the name that was probably meant.

    >>> print(missing_name("desne", ["dense", "conv"], {}))
    module 'functional_nn' has no attribute 'desne'. Did you mean dense?
    >>> print(missing_name("make_epoch", ["dense"], {"training": ["make_epoch"]}))
    module 'functional_nn' has no attribute 'make_epoch'. Did you mean fnn.training.make_epoch?
    """
    qualified = {inner: f"fnn.{namespace}.{inner}" for namespace, names in namespaces.items() for inner in names}
    places = qualified | {top: top for top in top_level}
    import optax

    if name not in places and (optax_name := next((n for n in (name, name.lower()) if hasattr(optax, n)), None)):
        remedy = f"Optimizers and schedules are Optax's: use optax.{optax_name}."
    elif meant := nearest(name, places):
        remedy = f"Did you mean {places[meant]}?"
    else:
        remedy = "See docs/reference/index.md for all names."
    return AttributeError(f"module 'functional_nn' has no attribute {name!r}. {remedy}", name=name)
