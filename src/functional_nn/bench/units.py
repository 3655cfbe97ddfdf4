"""Seconds, bytes and floating-point operations as short texts with units, and lines of labeled facts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from functional_nn.core.texts import WIDTH

LABEL_WIDTH = 14


def labeled(facts: Iterable[tuple[str, str]]) -> list[str]:
    """The lines of facts, each with its label in front."""
    lines = []
    for label, text in facts:
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=label.ljust(LABEL_WIDTH), subsequent_indent=" " * LABEL_WIDTH
        )
    return lines


def unit_of(number: float, least: float, units: Sequence[str]) -> tuple[float, str]:
    """The size and the name of the unit for a number. Each unit is 1000 times as large as the one before.

    A number that would be written as 1000 has the next unit.
    """
    for unit in units[:-1]:
        if number < 999.5 * least:
            return least, unit
        least *= 1000
    return least, units[-1]


def unit_of_seconds(seconds: float) -> tuple[float, str]:
    """The size and the name of the unit for seconds."""
    return unit_of(seconds, 1e-9, ("ns", "µs", "ms", "s"))


def in_seconds(seconds: float) -> str:
    """Seconds with three digits; above 1000 s with more.

    >>> in_seconds(0.01234), in_seconds(2.5e-5), in_seconds(3e-7)
    ('12.3 ms', '25.0 µs', '300 ns')
    """
    size, unit = unit_of_seconds(seconds)
    number = seconds / size
    return f"{number:.0f} {unit}" if number >= 99.95 else f"{number:#.3g} {unit}"


def in_bytes(number: float) -> str:
    """Bytes with three digits.

    >>> in_bytes(512), in_bytes(1_714_568)
    ('512 B', '1.71 MB')
    """
    return _with_prefix(number, "B")


def in_flops(number: float) -> str:
    """Floating-point operations with three digits.

    >>> in_flops(59_765_128)
    '59.8 MFLOP'
    """
    return _with_prefix(number, "FLOP")


def _with_prefix(number: float, unit: str) -> str:
    size, prefix = unit_of(number, 1, ("", "k", "M", "G", "T"))
    return f"{number / size:.3g} {prefix}{unit}"
