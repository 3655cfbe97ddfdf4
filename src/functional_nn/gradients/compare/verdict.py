"""The verdict on one comparison of a hand-derived derivative with automatic differentiation and an arbiter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "inconclusive"]
MARKS: dict[Outcome, str] = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
ORDER: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
"""The outcomes, the worst first."""
LARGEST_FACTOR = 1024
"""The hint for a wrong value tries whole numbers up to this one as the factor to the right value."""


@dataclass(frozen=True)
class Verdict:
    """The result of one comparison. The hand-derived formula and automatic differentiation are measured by an arbiter.

    The arbiter is an independent reference: derivatives in 50 digits, or from differences of the function.

    Args:
        subject: the function or layer with the formula.
        leaf: the argument or parameter with respect to which the derivative is taken.
        kind: what was compared: ``"value"``, ``"vjp"``, ``"jvp"``, ``"second order"``, ``"trajectory"``; or
            ``"coverage"``, if no case compares a public name.
        dtype: the type in which the formula was computed.
        transform: the JAX transform under which it was computed: ``"jit"``, ``"vmap"``, ``"scan"``, or ``"plain"``; or
            ``"drawn"``, under ``jit`` with a drawn cotangent instead of the cotangents of the basis.
        regime: the kind of point: ``"normal"``, ``"tails"``, ``"kinks"``, ``"masked"`` and the like.
        outcome: the outcome for the hand-derived formula, see ``judge``.
        error: the largest error of the hand-derived formula over all elements, in ``unit``.
        tolerance: the largest error allowed, in ``unit``.
        unit: ``"terms"``: the error divided by the sum of the absolute values of the terms that make up the element,
            plus the effect of rounding. ``"relative"``: the error divided by the derivative itself. Or ``"ULP"``,
            units in the last place.
        automatic_error: the largest error of automatic differentiation over the elements that the arbiter knows, in
            ``unit``.
        reference: the name of the arbiter.
        reference_error: the arbiter's estimate of its own error, in ``unit``.
        index: the element with the largest error of the formula.
        hand: the formula's value there.
        automatic: the value of automatic differentiation there.
        arbiter: the arbiter's value there.
        note: other things that a reader should know.
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
    def sentence(self) -> str:
        """A sentence that says which values disagree, at which element, and which of the three sources is right."""
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
        return ", ".join(f"{source} gives {value:.9g}" for source, value in values.items() if value is not None)

    @property
    def _conclusion(self) -> str:
        automatic_is_wrong = self.automatic_outcome == "fail"
        if self.outcome == "inconclusive":
            return f"Inconclusive: the arbiter's own error ({self.reference_error:.1e}) is too large to tell."
        if self.outcome == "pass":
            return "The formula is right, automatic differentiation is not." if automatic_is_wrong else "All agree."
        wrong = "The formula is wrong"
        if automatic_is_wrong:
            wrong = "The formula and automatic differentiation are wrong"
        size = f"error {self.error:.2g} {self.unit}, {self.tolerance:.2g} allowed"
        return f"{wrong} ({size}). {_likely_cause(self.hand, self.arbiter, self.automatic)}{self.note}".strip()


def judge(error: float, reference_error: float, tolerance: float) -> Outcome:
    """Decides the outcome for an error, when the reference has an error too.

    The true error lies within ``error ± reference_error``. If this range lies wholly inside the tolerance, the
    comparison passes; if it lies wholly outside, it fails; otherwise it is inconclusive. An error of NaN
    fails.

    >>> judge(1e-15, 1e-30, 1e-13), judge(1e-6, 1e-30, 1e-13), judge(1e-15, 1e-9, 1e-13)
    ('pass', 'fail', 'inconclusive')
    """
    if math.isnan(error):
        return "fail"
    if error + reference_error <= tolerance:
        return "pass"
    return "fail" if error - reference_error > tolerance else "inconclusive"


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of some outcomes: a failure, then an inconclusive one, then a pass."""
    return min(outcomes, key=ORDER.index)


def worst_verdicts(verdicts: Iterable[Verdict], count: int = 20) -> list[Verdict]:
    """The verdicts with the largest errors as multiples of their tolerance. Errors of NaN come first."""
    return sorted(verdicts, key=_excess, reverse=True)[:count]


def _excess(verdict: Verdict) -> float:
    """The formula's error as a multiple of the tolerance."""
    if math.isnan(verdict.error) or not verdict.tolerance:
        return math.inf
    return verdict.error / verdict.tolerance


def automatic_excess(verdict: Verdict) -> float:
    """The error of automatic differentiation as a multiple of the tolerance; -1 if it was not compared."""
    if verdict.automatic_error is None:
        return -1.0
    return math.inf if math.isnan(verdict.automatic_error) else verdict.automatic_error / verdict.tolerance


def _likely_cause(hand: float | None, arbiter: float | None, automatic: float | None) -> str:
    """A hint in words about the error, from the ratio of the formula's value to the right value."""
    if hand == 0 and arbiter:
        return "It is 0: a term is missing, or terms cancel. "
    if hand and math.isfinite(hand) and arbiter == 0 and automatic == 0:
        return "The derivative is 0. Is a factor missing, such as y_bar, or are the arguments in another order? "
    if not hand or not arbiter or not math.isfinite(hand / arbiter):
        return ""
    quotient = hand / arbiter
    if math.isclose(quotient, -1, rel_tol=1e-4):
        return "It has the wrong sign. "
    sign = " and has the wrong sign" if quotient < 0 else ""
    for factor in range(2, LARGEST_FACTOR + 1):
        if math.isclose(abs(quotient), factor, rel_tol=1e-5):
            return f"It is {factor} times too large{sign}. "
        if math.isclose(abs(quotient), 1 / factor, rel_tol=1e-5):
            return f"It is {factor} times too small{sign}. "
    return ""
