"""The report of a comparison: its verdicts as a table, a sentence, or a dictionary."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Literal, NamedTuple

from functional_nn.core.texts import WIDTH, aligned, counted, cut_to_end


@dataclass(frozen=True)
class Survivor:
    """A planted error that no comparison found.

    Args:
        subject: the function or layer with the formula.
        description: the place and the error in words.
        code: the text of this line of the formula; "" for an error in a result.
        changes: whether it changes the result of the formula by more than rounding could, at a point that was tried. If
            not, it cannot be told apart from the formula: either it is no error, or the points are too simple.
    """

    subject: str
    description: str
    code: str = ""
    changes: bool = False


@dataclass(frozen=True)
class Report:
    """All verdicts of a comparison, and how many of the planted errors it found.

    Shows itself as a sentence and a table, in a terminal and in a notebook. ``bool(report)`` raises an error: write
    ``report.passed`` or ``report.raise_if_failed()``.

    Args:
        verdicts: one for each comparison.
        mutants: the number of wrong formulas that were planted to try the comparison itself.
        survivors: the wrong formulas that the comparison did not find.
        skipped: what was not compared, with the reasons.
        seconds: the time of the comparison.
        title: the name of the run or of the formula.
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
        """The verdicts that did not pass: failures first, then inconclusive ones."""
        failed = (verdict for verdict in self.verdicts if verdict.outcome != "pass")
        return tuple(sorted(failed, key=lambda verdict: ORDER.index(verdict.outcome)))

    @property
    def missed(self) -> tuple[Survivor, ...]:
        """The planted errors that change the result by more than rounding, and were not found all the same."""
        return tuple(survivor for survivor in self.survivors if survivor.changes)

    @property
    def passed(self) -> bool:
        """Whether at least one comparison ran, all passed, and every planted error that changes values was found."""
        return bool(self.verdicts) and not self.failures and not self.missed

    @property
    def wrong_automatic(self) -> tuple[Verdict, ...]:
        """The verdicts where the formula is right and automatic differentiation is wrong."""
        return tuple(v for v in self.verdicts if v.outcome == "pass" and v.automatic_outcome == "fail")

    @property
    def sentence(self) -> str:
        """The first failure in words, or what passed."""
        if self.failures:
            return self.failures[0].sentence
        if self.missed:
            error = f"{self.missed[0].subject}: a planted error was not found ({self.missed[0].description})"
            return f"{error}, although it changes the result. So this comparison cannot be trusted here."
        if not self.verdicts:
            return "Nothing was compared."
        count = len(self.verdicts)
        parts = [f"{count} comparisons agree" if count > 1 else "1 comparison agrees"]
        if self.mutants:
            parts.append(self._found)
        if self.wrong_automatic:
            parts.append(f"in {counted(len(self.wrong_automatic), 'comparison')}, automatic differentiation is wrong")
        notes = self.notes
        if len(notes) > MOST_NOTES:
            notes = (f"{len(notes)} notes (report.notes) say what these comparisons do not tell.",)
        return " ".join([f"{'; '.join(parts)}.", *notes])

    @property
    def notes(self) -> tuple[str, ...]:
        """What the comparisons that pass do not tell, in sentences. Each begins with the arguments that it is about."""
        several = len({verdict.subject for verdict in self.verdicts}) > 1
        about: dict[str, list[str]] = {}
        digits: dict[str, list[int]] = {}
        for verdict in self.verdicts:
            name = f"{verdict.subject}, {verdict.leaf}" if several else verdict.leaf
            if verdict.outcome == "pass" and verdict.unit != "ULP" and verdict.note:
                about.setdefault(verdict.note, []).append(name)
            if verdict.digits is not None:
                digits.setdefault(name, []).append(verdict.digits)
        if digits:
            about[right_to(min(map(min, digits.values())))] = list(digits)
        return tuple(f"{', '.join(dict.fromkeys(names))}: {note.strip()}" for note, names in about.items())

    @property
    def _found(self) -> str:
        """How many errors were planted and how many were found, in words."""
        alike = len(self.survivors)
        planted = f"of {self.mutants:,} planted errors {self.mutants - alike:,} were found"
        return f"{planted} and {alike:,} could not be told apart from the formula" if alike else planted

    def raise_if_failed(self) -> None:
        """Raises ``AssertionError`` with the report as its message, unless everything passed."""
        __tracebackhide__ = True  # pytest shows the caller's line
        if not self.passed:
            raise AssertionError(str(self))

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, texts and lists.

        Numbers may be infinite or NaN, which strict JSON does not allow.
        """
        counts = Counter(verdict.outcome for verdict in self.verdicts)
        return {
            "cells": len(self.verdicts),
            "passed": counts["pass"],
            "failed": counts["fail"],
            "inconclusive": counts["inconclusive"],
            "mutants": self.mutants,
            "mutants_killed": self.mutants - len(self.survivors),
            "mutants_alike": len(self.survivors) - len(self.missed),
            "survivors": [asdict(survivor) for survivor in self.survivors],
            "skipped": [{"subject": subject, "reason": reason} for subject, reason in self.skipped],
            "worst": [asdict(verdict) for verdict in worst_verdicts(self.verdicts)],
            "wrong_automatic": [asdict(verdict) for verdict in self.wrong_automatic],
            "seconds": self.seconds,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }

    @property
    def _alike_by_line(self) -> list[str]:
        """For each line of a formula, the errors in it that could not be told apart: the first one, and how many."""
        by_line: dict[str, list[Survivor]] = {}
        for survivor in self.survivors:
            if not survivor.changes:
                by_line.setdefault(survivor.code or f"{survivor.subject}, {survivor.description}", []).append(survivor)
        shown = []
        for line, (first, *others) in by_line.items():
            more = f" and {len(others)} more" if others else ""
            shown.append(f"  {first.description}{more}\n      {line}" if first.code else f"  {line}{more}")
        return shown

    def __str__(self) -> str:
        passed = f"Passed{self.title and f': {self.title}'}" if self.passed else "Not passed"
        parts = [textwrap.fill(f"{passed}. {self.sentence}", WIDTH, break_on_hyphens=False)]
        if self.verdicts:
            parts.append(text_table(self.verdicts))
        alike = self._alike_by_line if self.passed else []
        if alike:
            more = [f"  and {len(alike) - MOST_LINES:,} more lines: report.survivors"] if alike[MOST_LINES:] else []
            parts.append("\n".join([textwrap.fill(ALIKE, WIDTH), *alike[:MOST_LINES], *more]))
        if self.skipped:
            left_out = dict.fromkeys(f"Not compared: {subject}. {reason}" for subject, reason in self.skipped)
            parts.append("\n".join(textwrap.fill(line, WIDTH, break_on_hyphens=False) for line in left_out))
        return "\n\n".join(parts)

    __repr__ = __str__


def combine_reports(reports: Sequence[Report], *, title: str = "", seconds: float | None = None) -> Report:
    """Combines several reports. The time is the sum of their times, unless it is given."""
    return Report(
        tuple(verdict for report in reports for verdict in report.verdicts),
        sum(report.mutants for report in reports),
        tuple(survivor for report in reports for survivor in report.survivors),
        tuple(entry for report in reports for entry in report.skipped),
        sum(report.seconds for report in reports) if seconds is None else seconds,
        title,
    )


ALIKE = (
    "Could not be told apart: these changes of the formula give the same values, up to rounding, at all points that "
    "were tried. So they are no errors, or the points are too simple to show them."
)
MOST_LINES = 5
"""The largest number of lines of a formula that a report shows with these words."""
MOST_NOTES = 3
"""If there are more notes, the sentence of a report has only their number."""
MOST_ROWS = 40
"""The largest number of rows in a table. If more comparisons failed, the table has more rows."""
HEADS = ("", "by", "compared", "times", "error", "allowed", "automatic")
"""The columns: the mark, the argument, the comparison, how often, the formula's worst error, and jax.grad's."""
NUMBERS_FROM = 3
"""The first column that is aligned to the right."""


class VerdictGroup(NamedTuple):
    """Verdicts that make up one row of a table.

    Args:
        times: the number of verdicts.
        outcome: the worst of their outcomes.
        worst: among the verdicts with this outcome, the one with the largest error of the formula.
        worst_automatic: the verdict where the error of automatic differentiation is largest.
    """

    times: int
    outcome: Outcome
    worst: Verdict
    worst_automatic: Verdict


def group_verdicts(verdicts: Iterable[Verdict], *fields: str) -> list[VerdictGroup]:
    """Groups the verdicts that are equal in these fields. Groups with failures come first; else the order is kept."""
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(tuple(getattr(verdict, field) for field in fields), []).append(verdict)
    found = []
    for group in groups.values():
        outcome = worst_outcome(verdict.outcome for verdict in group)
        (shown,) = worst_verdicts((verdict for verdict in group if verdict.outcome == outcome), 1)
        found.append(VerdictGroup(len(group), outcome, shown, max(group, key=automatic_excess)))
    return sorted(found, key=lambda group: ORDER.index(group.outcome))


def text_table(verdicts: Sequence[Verdict]) -> str:
    """Formats a table of at most 80 columns: each subject has its own line, and its comparisons follow below.

    If there are too many rows, some comparisons that passed are left out.
    """
    groups = group_verdicts(verdicts, "subject", "leaf", "kind", "dtype", "unit", "outcome")
    if len(groups) > MOST_ROWS:
        passed = [group.worst for group in groups if group.outcome == "pass"]
        nearest = worst_verdicts(passed, max(0, MOST_ROWS - len(groups) + len(passed)))
        groups = [group for group in groups if group.outcome != "pass" or any(group.worst is one for one in nearest)]
    left_out = len(verdicts) - sum(group.times for group in groups)
    rows = [HEADS, *map(table_cells, groups)]
    # Only names of arguments can be too long. Their column gets the width that is left, and keeps the ends of names.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    width = WIDTH - sum(widths) + widths[1] - 2 * (len(HEADS) - 1)
    cut = [(mark, cut_to_end(name, width), *others) for mark, name, *others in rows]
    head, *body = aligned(cut, NUMBERS_FROM)
    by_subject: dict[str, list[str]] = {}
    for group, line in zip(groups, body, strict=True):
        subject = group.worst.subject
        by_subject.setdefault(subject, ["", cut_to_end(subject, WIDTH)]).append(line)
    left = ["", f"… and {left_out:,} more comparisons that pass"] if left_out else []
    return "\n".join([head, *chain.from_iterable(by_subject.values()), *left])


def table_cells(group: VerdictGroup) -> tuple[str, ...]:
    """The cells of a row, one for each of ``HEADS``."""
    verdict, automatic = group.worst, group.worst_automatic.automatic_error
    unit = "" if verdict.unit == "terms" else f" {verdict.unit}"
    return (
        MARKS[group.outcome],
        verdict.leaf,
        f"{verdict.kind} {verdict.dtype}",
        str(group.times),
        f"{verdict.error:.2g}",
        f"{verdict.tolerance:.2g}{unit}" if verdict.digits is None else f"{verdict.digits} digits",
        "" if automatic is None else f"{automatic:.2g}",
    )


Outcome = Literal["pass", "fail", "inconclusive"]
MARKS: dict[Outcome, str] = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
ORDER: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
"""The outcomes, the worst first."""
LARGEST_FACTOR = 1024
"""The hint for a wrong value tries whole numbers up to this one as the factor to the right value."""
LEAST_DIGITS = 9
"""If the arbiter is less certain than the tolerance, a formula that is right to this number of digits passes. So it is
a thousand times nearer to the right value than the smallest planted error, one component × (1 + 1e-6)."""


@dataclass(frozen=True)
class Verdict:
    """The result of one comparison. The hand-derived formula and automatic differentiation are measured by an arbiter.

    The arbiter is an independent reference: derivatives in 50 digits, or from differences of the function.

    Args:
        subject: the function or layer with the formula.
        leaf: the argument or parameter with respect to which the derivative is taken.
        kind: what was compared: ``"value"``, ``"vjp"``, ``"second order"``, or ``"trajectory"``.
        dtype: the type in which the formula was computed.
        transform: the JAX transform under which it was computed: ``"jit"``, ``"vmap"``, ``"scan"``, or ``"plain"``; or
            ``"drawn"``, under ``jit`` with a drawn cotangent instead of the cotangents of the basis; or ``"by y_bar"``,
            the derivative by the cotangent, in second order.
        regime: the kind of point: ``"normal"``, ``"tails"``, ``"kinks"``, ``"masked"`` and the like.
        outcome: the outcome for the hand-derived formula, see ``judge``.
        error: the largest error of the hand-derived formula over all elements, in ``unit``.
        tolerance: the largest error allowed, in ``unit``.
        unit: ``"terms"``: the error divided by the size of the terms that make up the element: its own size plus the
            effect of rounding. ``"relative"``: the error divided by the derivative itself. Or ``"ULP"``,
            units in the last place.
        automatic_error: the largest error of automatic differentiation over the elements that the arbiter knows, in
            ``unit``.
        reference: the name of the arbiter.
        reference_error: the arbiter's estimate of its own error, in ``unit``.
        index: the element with the largest error of the formula.
        hand: the formula's value there.
        automatic: the value of automatic differentiation there.
        arbiter: the arbiter's value there.
        note: other things that a reader should know, such as why nothing could be compared.
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
        """The outcome of automatic differentiation, by the same rule; None if it was not compared."""
        if self.automatic_error is None:
            return None
        return judge(self.automatic_error, self.reference_error, self.tolerance)

    @property
    def digits(self) -> int | None:
        """How many digits are right for certain, if it passes and the arbiter cannot confirm more; otherwise None."""
        largest = self.error + self.reference_error
        if self.outcome != "pass" or largest <= self.tolerance:
            return None
        return math.floor(-math.log10(largest))

    @property
    def likely_cause(self) -> str:
        """A hint in words, from the ratio of the formula's value to the right value. It is "" if the two give none.

        >>> import functional_nn as fnn
        >>> fnn.gradients.Verdict("dense", "bias", "fail", 0.5, 1e-13, hand=1.0, arbiter=2.0).likely_cause
        'It is 2 times too small.'
        """
        hand, arbiter = self.hand, self.arbiter
        if self.reference == "float64" and hand is not None and hand == self.automatic:
            return f"Both are equal in {self.dtype}: it loses digits here, or rounding moves the point across a kink."
        if hand == 0 and arbiter:
            return "It is 0: a term is missing, terms cancel, or a number is out of range."
        quotient = hand / arbiter if hand and arbiter else 0.0
        if not quotient or not math.isfinite(quotient):
            return ""
        if math.isclose(quotient, -1, rel_tol=1e-4):
            return "It has the wrong sign."
        if 1e-12 < (off := abs(quotient - 1)) < 1e-3:
            causes = "Is a constant rounded, a small term missing, or do terms cancel?"
            return f"It is right to {counted(round(-math.log10(off)), 'digit')}. {causes}"
        sign = " and has the wrong sign" if quotient < 0 else ""
        ratio = max(abs(quotient), 1 / abs(quotient))
        if 1.5 < ratio < LARGEST_FACTOR + 0.5 and math.isclose(ratio, round(ratio), rel_tol=1e-5):
            return f"It is {round(ratio)} times too {'large' if abs(quotient) > 1 else 'small'}{sign}."
        return ""

    @property
    def sentence(self) -> str:
        """A sentence that says which values disagree, at which element, and which of the three sources is right."""
        if self.note and (self.kind == "trajectory" or not self._values):
            return f"{self._place if self.leaf else f'{self.subject}: {self.kind}'}: {self.note}"
        return f"{self._place}: {self._values}. {self._conclusion}".strip()

    @property
    def _place(self) -> str:
        """The element, and how it was computed."""
        element = f", element {self.index}" if self.index else ""
        return f"{self.subject}: {self.leaf}{element} ({self.kind}, {self.dtype}, {self.transform}, {self.regime})"

    @property
    def _values(self) -> str:
        arbiter = f"the arbiter ({self.reference})" if self.reference else "the arbiter"
        values = {"the formula": self.hand, "automatic differentiation": self.automatic, arbiter: self.arbiter}
        known = {source: value for source, value in values.items() if value is not None}
        # If the first nine digits of two different values are equal, the reader needs more.
        digits = 9
        if self.outcome == "fail" and self.hand is not None and self.arbiter is not None:
            digits = digits_to_tell_apart(self.hand, self.arbiter)
        return ", ".join(f"{source} gives {value:.{digits}g}" for source, value in known.items())

    @property
    def _conclusion(self) -> str:
        automatic_is_wrong = self.automatic_outcome == "fail"
        if self.outcome == "inconclusive":
            return f"Inconclusive: the arbiter's own error ({self.reference_error:.1e}) is too large to tell."
        if self.outcome == "pass":
            agree = "The formula is right, automatic differentiation is not." if automatic_is_wrong else "All agree."
            return agree if self.digits is None else f"{agree} It is {right_to(self.digits)}"
        hand, arbiter = self.hand or 0.0, self.arbiter or 0.0
        # Automatic differentiation may be wrong at another element only.
        both = automatic_is_wrong and not abs((self.automatic or 0.0) - arbiter) < abs(hand - arbiter) / 100
        wrong = f"The formula {'and automatic differentiation are' if both else 'is'} wrong"
        size = f"error {self.error:.2g} {self.unit}, {self.tolerance:.2g} allowed"
        is_known = self.reference_error <= self.tolerance or self.error == math.inf
        if self.arbiter == 0 and math.isfinite(hand):
            size = f"the right value is {'' if is_known else 'nearly '}0"
        elif not math.isfinite(hand) and math.isfinite(arbiter):
            size = "the right value is finite"
        if self.tolerance < self.reference_error < self.error < math.inf:
            # At a kink, these are the derivatives to the left and to the right.
            known = abs(hand - arbiter) * self.reference_error / self.error
            digits = digits_to_tell_apart(arbiter - known, arbiter + known)
            between = f"{arbiter - known:.{digits}g} and {arbiter + known:.{digits}g}"
            return f"{wrong} ({size}). The right value lies between {between}. {self.note}".strip()
        return " ".join(filter(None, (f"{wrong} ({size}).", self.likely_cause, self.note.strip())))


def judge(error: float, reference_error: float, tolerance: float) -> Outcome:
    """Decides the outcome for an error, when the reference has an error too.

    The true error lies within ``error ± reference_error``. If this range lies wholly inside the tolerance, the
    comparison passes; if it lies wholly outside, it fails. Otherwise it is inconclusive, unless the whole range is
    below 1e-9: then the formula is right to nine digits or more, and passes. An error of NaN fails.

    >>> judge(1e-15, 1e-30, 1e-13), judge(1e-6, 1e-30, 1e-13), judge(1e-15, 1e-9, 1e-13)
    ('pass', 'fail', 'inconclusive')
    >>> judge(5e-13, 6e-13, 1e-13), judge(5e-13, 1e-15, 1e-13)
    ('pass', 'fail')
    """
    if math.isnan(error) or error - reference_error > tolerance:
        return "fail"
    return "pass" if error + reference_error <= max(tolerance, 10.0**-LEAST_DIGITS) else "inconclusive"


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of some outcomes: a failure, then an inconclusive one, then a pass."""
    return min(outcomes, key=ORDER.index)


def has_failed(verdicts: Iterable[Verdict]) -> bool:
    """Whether a verdict is a failure."""
    return any(verdict.outcome == "fail" for verdict in verdicts)


def worst_verdicts(verdicts: Iterable[Verdict], count: int = 20) -> list[Verdict]:
    """The verdicts with the largest errors as multiples of their tolerance. Errors of NaN come first."""
    return sorted(verdicts, key=_excess, reverse=True)[:count]


def _excess(verdict: Verdict) -> float:
    """The formula's error as a multiple of the tolerance."""
    return math.inf if math.isnan(verdict.error) or not verdict.tolerance else verdict.error / verdict.tolerance


def automatic_excess(verdict: Verdict) -> float:
    """The error of automatic differentiation as a multiple of the tolerance; -1 if it was not compared."""
    error = verdict.automatic_error
    return -1.0 if error is None else _excess(replace(verdict, error=error))


def digits_to_tell_apart(one: float, other: float) -> int:
    """How many digits show that two numbers differ: 9 or, if these are equal, 13 or 17.

    >>> digits_to_tell_apart(1.0, 2.0), digits_to_tell_apart(1.0, 1 + 1e-11), digits_to_tell_apart(1.0, 1 + 1e-14)
    (9, 13, 17)
    """
    return next((digits for digits in (9, 13) if f"{one:.{digits}g}" != f"{other:.{digits}g}"), 17)


def right_to(digits: int) -> str:
    """How far a formula is right for certain, in words."""
    return f"right to {counted(digits, 'digit')} or more. The arbiter cannot tell how many more."
