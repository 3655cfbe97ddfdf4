"""Seconds, bytes and floating-point operations as short texts with units, and lines of labeled facts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

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


def seconds_scale(seconds: float) -> tuple[float, str]:
    """The factor that brings seconds to an easily read number, and the unit's name."""
    # A number that is written as 1.00 has the larger unit.
    if seconds >= 0.9995:
        return 1.0, "s"
    if seconds >= 0.9995e-3:
        return 1e3, "ms"
    if seconds >= 0.9995e-6 or not seconds:
        return 1e6, "µs"
    return 1e9, "ns"


def in_seconds(seconds: float) -> str:
    """Seconds with three digits; above 1000 s with more.

    >>> in_seconds(0.01234), in_seconds(2.5e-5), in_seconds(3e-7)
    ('12.3 ms', '25.0 µs', '300 ns')
    """
    scale, unit = seconds_scale(seconds)
    number = seconds * scale
    return f"{number:.0f} {unit}" if number >= 99.95 else f"{number:#.3g} {unit}"


def in_bytes(number: float) -> str:
    """Bytes with three digits.

    >>> in_bytes(512), in_bytes(1_714_568)
    ('512 B', '1.71 MB')
    """
    prefix, scaled = _metric(number)
    return f"{scaled:.3g} {prefix}B"


def in_flops(number: float) -> str:
    """Floating-point operations with three digits.

    >>> in_flops(59_765_128)
    '59.8 MFLOP'
    """
    prefix, scaled = _metric(number)
    return f"{scaled:.3g} {prefix}FLOP"


def _metric(number: float) -> tuple[str, float]:
    """The prefix of the unit, and the number divided by it; numbers up to 999.5 keep the smaller unit."""
    for prefix in ("", "k", "M", "G"):
        if number < 999.5:
            return prefix, number
        number /= 1000
    return "T", number
