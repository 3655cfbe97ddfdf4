"""The report of a comparison: its verdicts as a table, a sentence, or a dictionary."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from functional_nn.core.display import html_table
from functional_nn.gradients.compare.report_table import HEADS, WIDTH, table_cells, table_rows, text_table
from functional_nn.gradients.compare.verdict import Verdict, worst_verdicts


@dataclass(frozen=True)
class Survivor:
    """A planted error that no comparison found, with the reason why it changes nothing, if the reason is known."""

    subject: str
    description: str
    reason: str = ""


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
        failed = [verdict for verdict in self.verdicts if verdict.outcome == "fail"]
        inconclusive = [verdict for verdict in self.verdicts if verdict.outcome == "inconclusive"]
        return (*failed, *inconclusive)

    @property
    def unexplained(self) -> tuple[Survivor, ...]:
        """The planted errors that were not found, and that have no known reason."""
        return tuple(survivor for survivor in self.survivors if not survivor.reason)

    @property
    def passed(self) -> bool:
        """Whether at least one comparison ran, all passed, and every planted error was found or has a reason."""
        return bool(self.verdicts) and not self.failures and not self.unexplained

    @property
    def wrong_automatic(self) -> tuple[Verdict, ...]:
        """The verdicts where the formula is right and automatic differentiation is wrong."""
        return tuple(v for v in self.verdicts if v.outcome == "pass" and v.automatic_outcome == "fail")

    @property
    def sentence(self) -> str:
        """The first failure in words, or what passed."""
        if self.failures:
            return self.failures[0].sentence
        if self.unexplained:
            survivor = self.unexplained[0]
            return f"{survivor.subject}: a planted error was not found: {survivor.description}."
        if not self.verdicts:
            return "Nothing was compared."
        parts = [f"{len(self.verdicts)} comparisons agree"]
        if self.mutants:
            parts.append(self._found)
        if self.wrong_automatic:
            parts.append(f"in {len(self.wrong_automatic)} automatic differentiation is wrong")
        return f"{'; '.join(parts)}."

    @property
    def _found(self) -> str:
        """How many errors were planted and how many were found, in words. All others have a reason."""
        found = self.mutants - len(self.survivors)
        planted = f"of {self.mutants:,} planted errors {found:,} were found"
        if not self.survivors:
            return planted
        return f"{planted} and {len(self.survivors):,} are listed as equivalent, each with a reason"

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
            "mutants_listed": len(self.survivors) - len(self.unexplained),
            "survivors": [asdict(survivor) for survivor in self.survivors],
            "skipped": [{"subject": subject, "reason": reason} for subject, reason in self.skipped],
            "worst": [asdict(verdict) for verdict in worst_verdicts(self.verdicts)],
            "wrong_automatic": [asdict(verdict) for verdict in self.wrong_automatic],
            "seconds": self.seconds,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }

    @property
    def _verdict_line(self) -> str:
        """One line: whether the report passed, and its sentence."""
        if not self.passed:
            return f"Not passed. {self.sentence}"
        title = f": {self.title}" if self.title else ""
        return f"Passed{title}. {self.sentence}"

    def __str__(self) -> str:
        verdict_line = textwrap.fill(self._verdict_line, WIDTH, break_on_hyphens=False)
        return f"{verdict_line}\n\n{text_table(self.verdicts)}" if self.verdicts else verdict_line

    __repr__ = __str__

    def _repr_html_(self) -> str:
        groups, left_out = table_rows(self.verdicts)
        rows = [(mark, group.worst.subject, *others) for group in groups for mark, *others in (table_cells(group),)]
        more = f" … and {left_out:,} more comparisons that pass" if left_out else ""
        return html_table(f"{self._verdict_line}{more}", (HEADS[0], "subject", *HEADS[1:]), rows)


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
