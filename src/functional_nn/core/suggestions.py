"""Suggestions for misspelled names: the nearest known name, as \"Did you mean …?\"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from functional_nn.core.errors import shortened

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
    return by_lower_case[min(similar, key=lambda name: (_edit_distance(word.lower(), name), name))]


def _edit_distance(a: str, b: str) -> int:
    """The fewest edits from a to b: letters inserted, removed, replaced, or exchanged with their neighbor."""
    # distance[i, j] is for the first i letters of a and the first j letters of b.
    distance = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            edits = [distance[i - 1, j] + 1, distance[i, j - 1] + 1, distance[i - 1, j - 1] + (a[i - 1] != b[j - 1])]
            if i > 1 and j > 1 and a[i - 2 : i] == b[j - 1] + b[j - 2]:
                edits.append(distance[i - 2, j - 2] + 1)
            distance[i, j] = min(edits)
    return distance[len(a), len(b)]


def suggest(word: str, known: Iterable[str]) -> str:
    """A remedy for a mistyped name: the nearest known name first, then all of them.

    >>> suggest("adm", ["sgd", "adam"])
    'Did you mean adam? Known: adam, sgd.'
    """
    names = sorted(known)
    meant = nearest(shortened(word), names)
    question = f"Did you mean {meant}? " if meant else ""
    return f"{question}Known: {', '.join(names)}."
