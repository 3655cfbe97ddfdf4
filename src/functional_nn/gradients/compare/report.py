"""Verdicts on gradients, and the report that collects them: a table, a sentence, a dictionary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Any, Literal

Outcome = Literal["pass", "fail", "inconclusive"]
MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
MOST_ROWS = 40


def judge(error: float, reference_error: float, tolerance: float) -> Outcome:
    """What an error means that was measured against a reference which itself may be wrong by ``reference_error``.

    The true error lies within ``error ± reference_error``: wholly inside of the tolerance is a pass, wholly outside
    a failure, and anything else cannot be told. What is not a number fails.

    >>> judge(1e-15, 1e-30, 1e-13), judge(1e-6, 1e-30, 1e-13), judge(1e-15, 1e-9, 1e-13)
    ('pass', 'fail', 'inconclusive')
    """
    if math.isnan(error):
        return "fail"
    if error + reference_error <= tolerance:
        return "pass"
    return "fail" if error - reference_error > tolerance else "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """One comparison of three parties: the hand-derived formula, automatic differentiation, and an arbiter.

    Args:
        subject: whose formula it is.
        leaf: the argument or parameter that the derivative is by.
        kind: what was compared: ``"value"``, ``"vjp"``, ``"jvp"``, ``"second order"``, ``"trajectory"``.
        dtype: what the formula was computed in.
        transform: what it was computed under: ``"jit"``, ``"vmap"``, ``"scan"``, or ``"plain"``.
        regime: where: ``"normal"``, ``"tails"``, ``"kinks"``, ``"masked"`` and the like.
        outcome: on the hand-derived formula, see ``judge``.
        error: of the hand-derived formula, the largest of all elements, in ``unit``.
        tolerance: what it may be.
        unit: ``"terms"`` where an element's error is divided by the sum of the absolute values of the terms that the
            element is the sum of, and of what rounding does to them, or ``"ULP"``.
        automatic_error: of automatic differentiation, in the same unit.
        reference: the arbiter.
        reference_error: its own error, as it estimates it, in the same unit.
        index: the element where the formula is worst, with what the three parties say there.
        hand: the formula's value there.
        automatic: that of automatic differentiation.
        arbiter: the arbiter's.
        note: anything else a reader should know.
    """

    subject: str
    leaf: str
    outcome: Outcome
    error: float
    tolerance: float
    kind: str = "vjp"
    dtype: str = "float64"
    transform: str = "plain"
    regime: str = "normal"
    unit: str = "terms"
    automatic_error: float | None = None
    reference: str = ""
    reference_error: float = 0.0
    index: tuple[int, ...] = ()
    hand: float | None = None
    automatic: float | None = None
    arbiter: float | None = None
    note: str = ""

    @property
    def automatic_outcome(self) -> Outcome | None:
        """The same verdict on automatic differentiation."""
        if self.automatic_error is None:
            return None
        return judge(self.automatic_error, self.reference_error, self.tolerance)

    @property
    def sentence(self) -> str:
        """What disagrees, where, and who is right, in words."""
        place = f"{self.subject}: {self.leaf}" + (f", element {self.index}" if self.index else "")
        circumstances = ", ".join([self.kind, self.dtype, self.transform, self.regime])
        said = [("the formula", self.hand), ("automatic differentiation", self.automatic)]
        said.append((f"the arbiter ({self.reference})" if self.reference else "the arbiter", self.arbiter))
        values = ", ".join(f"{who} gives {value:.9g}" for who, value in said if value is not None)
        return f"{place} ({circumstances}): {values}. {self._conclusion}".strip()

    @property
    def _conclusion(self) -> str:
        automatic = self.automatic_outcome
        if self.outcome == "inconclusive":
            return f"The arbiter's own error ({self.reference_error:.1e}) is too large to tell."
        size = f"error {self.error:.2g} {self.unit}, {self.tolerance:.2g} allowed"
        if self.outcome == "pass":
            return "The formula is right, automatic differentiation is not." if automatic == "fail" else "All agree."
        who = "The formula and automatic differentiation are wrong" if automatic == "fail" else "The formula is wrong"
        return f"{who} ({size}). {_likely_cause(self.hand, self.arbiter)}{self.note}".strip()


def _likely_cause(hand: float | None, arbiter: float | None) -> str:
    """A hint from the quotient of the formula's value and the true one."""
    if not hand or not arbiter or not math.isfinite(hand / arbiter):
        return "A term is missing: it is 0. " if hand == 0 and arbiter else ""
    quotient = hand / arbiter
    if math.isclose(quotient, -1, rel_tol=1e-4):
        return "It has the wrong sign. "
    for factor in range(2, 1025):
        if math.isclose(abs(quotient), factor, rel_tol=1e-5):
            return f"It is {factor} times too large. "
        if math.isclose(abs(quotient), 1 / factor, rel_tol=1e-5):
            return f"It is {factor} times too small. "
    return ""


@dataclass(frozen=True)
class Survivor:
    """A planted error that no comparison found, with the reason why it is none, where the list of these has one."""

    subject: str
    description: str
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """Verdicts, with what became of the mutants that were planted to try the comparison itself.

    Prints as a table in a terminal and in a notebook. ``bool`` is not defined: say what you mean by
    ``report.passed`` or ``report.raise_if_failed()``.

    Args:
        verdicts: one for each comparison.
        mutants: how many wrong formulas were planted.
        survivors: those of them that the comparison did not find.
        skipped: what was not compared, and why.
        seconds: how long it took.
    """

    verdicts: tuple[Verdict, ...] = ()
    mutants: int = 0
    survivors: tuple[Survivor, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    title: str = field(default="", compare=False)

    def __bool__(self) -> bool:
        raise TypeError("A report is neither true nor false: write report.passed, or report.raise_if_failed().")

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The comparisons that the formula did not pass, the certain ones first."""
        order = ("fail", "inconclusive")
        return tuple(verdict for outcome in order for verdict in self.verdicts if verdict.outcome == outcome)

    @property
    def unexplained(self) -> tuple[Survivor, ...]:
        """The surviving mutants for which nobody has said why they are no errors."""
        return tuple(survivor for survivor in self.survivors if not survivor.reason)

    @property
    def passed(self) -> bool:
        """Whether there was something to compare, every comparison passed, and every mutant was found or explained."""
        return bool(self.verdicts) and not self.failures and not self.unexplained

    @property
    def wrong_automatic(self) -> tuple[Verdict, ...]:
        """Where automatic differentiation is the party that is wrong."""
        return tuple(v for v in self.verdicts if v.outcome == "pass" and v.automatic_outcome == "fail")

    @property
    def sentence(self) -> str:
        """What disagrees first, in words."""
        if self.failures:
            return self.failures[0].sentence
        if self.unexplained:
            survivor = self.unexplained[0]
            return f"{survivor.subject}: a planted error was not found: {survivor.description}."
        if not self.verdicts:
            return "Nothing was compared."
        agreed = f"{len(self.verdicts)} comparisons agree"
        found = f"; {self._found}" if self.mutants else ""
        wrong = len(self.wrong_automatic)
        return f"{agreed}{found}{f'; in {wrong} automatic differentiation is the wrong party' if wrong else ''}."

    @property
    def _found(self) -> str:
        """How many errors were planted, and what became of them, in words."""
        found = self.mutants - len(self.survivors)
        planted = f"of {self.mutants:,} planted errors {found:,} were found"
        if not self.survivors:
            return planted
        # Only explained survivors get here: another one would be what the sentence says.
        return f"{planted} and {len(self.survivors):,} are listed as equivalent, each with a reason"

    def raise_if_failed(self) -> None:
        """Raises ``AssertionError`` with the first disagreement and the table, unless all passed."""
        __tracebackhide__ = True  # pytest shows the caller's line
        if not self.passed:
            raise AssertionError(f"{self.sentence}\n\n{self}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, texts and lists, ready for JSON."""
        counts = Counter(verdict.outcome for verdict in self.verdicts)
        return {
            "cells": len(self.verdicts),
            "passed": counts["pass"],
            "failed": counts["fail"],
            "inconclusive": counts["inconclusive"],
            "mutants": self.mutants,
            "mutants_killed": self.mutants - len(self.survivors),
            "mutants_listed": len(self.survivors) - len(self.unexplained),
            "survivors": [asdict(survivor) for survivor in self.survivors],
            "skipped": [{"subject": subject, "reason": reason} for subject, reason in self.skipped],
            "worst": [asdict(verdict) for verdict in worst(self.verdicts)],
            "wrong_automatic": [asdict(verdict) for verdict in self.wrong_automatic],
            "seconds": self.seconds,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }

    def __str__(self) -> str:
        shown = self.verdicts if len(self.verdicts) <= MOST_ROWS else self._most_telling
        table = [HEADS, *map(_cells, shown)]
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADS))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        rule = "-" * max(map(len, lines))
        left_out = len(self.verdicts) - len(shown)
        rest = [f"… and {left_out} more that pass"] if left_out else []
        return "\n".join(
            [*([self.title] if self.title else []), lines[0], rule, *lines[1:], *rest, rule, self.sentence]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in HEADS)
        shown = self.verdicts if len(self.verdicts) <= MOST_ROWS else self._most_telling
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(v))}</tr>" for v in shown)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{escape(self.sentence)}</p>"

    @property
    def _most_telling(self) -> tuple[Verdict, ...]:
        chosen = (*self.failures, *worst(v for v in self.verdicts if v.outcome == "pass"))
        return chosen[: max(MOST_ROWS, len(self.failures))]


HEADS = ("", "subject", "by", "compared", "formula's error", "automatic", "arbiter", "allowed", "unit")


def _cells(verdict: Verdict) -> tuple[str, ...]:
    errors = (verdict.error, verdict.automatic_error, verdict.reference_error, verdict.tolerance)
    compared = " ".join((verdict.kind, verdict.dtype, verdict.transform, verdict.regime))
    formatted = ("" if error is None else f"{error:.2g}" for error in errors)
    return (MARKS[verdict.outcome], verdict.subject, verdict.leaf, compared, *formatted, verdict.unit)


def worst(verdicts: Iterable[Verdict], count: int = 20) -> list[Verdict]:
    """The verdicts whose errors come nearest to what is allowed, or go beyond."""
    key = lambda v: math.inf if math.isnan(v.error) or not v.tolerance else v.error / v.tolerance  # noqa: E731
    return sorted(verdicts, key=key, reverse=True)[:count]


def together(reports: Sequence[Report], *, title: str = "", seconds: float | None = None) -> Report:
    """One report of several."""
    return Report(
        tuple(verdict for report in reports for verdict in report.verdicts),
        sum(report.mutants for report in reports),
        tuple(survivor for report in reports for survivor in report.survivors),
        tuple(entry for report in reports for entry in report.skipped),
        sum(report.seconds for report in reports) if seconds is None else seconds,
        title,
    )


def renamed(report: Report, subject: str) -> Report:
    """The same report under another subject."""
    return replace(report, verdicts=tuple(replace(verdict, subject=subject) for verdict in report.verdicts))
