"""Texts for people: names of metrics in words."""

from __future__ import annotations


def words(name: str) -> str:
    """The name of a metric or of a setting, as people read it.

    >>> words("test_accuracy")
    'test accuracy'
    """
    return name.replace("_", " ")
