"""Mutants that compute the same as the formula they were made from, or differ below what is compared, with reasons."""

from __future__ import annotations

import re

IN_ULP = "Changes digits below 1e-13 of the terms, or x far in the tails; the comparison in ULP covers both."
SHIFT = "The maximum that is subtracted cancels: any shift gives the same, until numbers overflow."
PADDING = "What stands on padding is 0 already, or is masked once more afterwards."
CROPPED = "What is padded here is cropped, or multiplied by 0, later on."
GUARD = (
    "A guard for labels or weights that no comparison has: wrong classes, no weight at all, NaN; tests of losses do."
)
ZERO = "The last state has no cotangent of its own here, so it is 0 already."
ONE = "The parameter is 1 here; the variant with another value covers it."
UNUSED = "A guard against overflow in the branch that is not chosen."
SCALED = "A scale that cancels: it guards against overflow."
EMPTY = "The other side is 0: this parameter is not penalised."

EQUIVALENT: tuple[tuple[str, str, str], ...] = (
    (r".*", r"gates\.py:.*", IN_ULP),
    (r".*", r"activations\.py:(28|29|45|52|53|54): .*", IN_ULP),
    (r"elu", r"activations\.py:\d+: (mul|select_n|gt): .*", ONE),
    (r"selu", r"activations\.py:\d+: mul: second factor dropped", ONE),
    (r"elu|selu", r"activations\.py:\d+: min: .*", UNUSED),
    (r"neuron|identity", r"activation_types\.py:\d+: mul: first factor dropped", ONE),
    (r"hard_silu", r"activations\.py:\d+: gt: 0 became 1", "It is looked at only where |x| is 3 or more."),
    (r"global_max_pool.*", r"pool\.py:\d+: max: (second dropped|1 became 0)", "Some element is always the largest."),
    (r"softmax|log_softmax", r"activations\.py:\d+: (reduce_max|sub): .*", SHIFT),
    (r".*", r"many_classes\.py:84: (reduce_max|sub): .*", SHIFT),
    (r"cross_entropy.*|multiclass_hinge.*", r"(labels|many_classes)\.py:\d+: .*", GUARD),
    (r"hinge|binary_cross_entropy.*", r"two_classes\.py:\d+: .*", GUARD),
    (r".*", r"weights\.py:\d+: .*", GUARD),
    (r"cosine_distance", r"regression\.py:\d+: .*", SCALED),
    (r".*", r"(attention|layer|recurrence)\.py:\d+: (select_n|jit): .*", PADDING),
    (r".*", r"recurrence\.py:\d+: scan: carry \d starts from 0", ZERO),
    (r"conv.*", r"windows\.py:\d+: pad: 0 became 1", CROPPED),
    (r"l[12].*", r"\?: mul: .*", EMPTY),
    (r"repeat_with_state", r"repeat\.py:\d+: scan: input 3 one .*", "The number of examples, the same in every block."),
    (r"remat", r"dropout\.py:\d+: jit: 0\.7 became .*", "No number that is drawn lies between the two."),
)
"""Subject and mutant (``file.py:line: what is wrong``) as regular expressions, and the reason."""


def reason_for(subject: str, mutant: str) -> str:
    """Why a surviving mutant is no error; nothing where that is not known."""
    for subjects, mutants, reason in EQUIVALENT:
        if re.fullmatch(subjects, subject) and re.fullmatch(mutants, mutant):
            return reason
    return ""
