"""Planted errors that change nothing here, each with the reason.

Some errors compute the same as the original formula. Others change less than the tolerance, or have an effect only for
inputs that a case does not have; then another case finds them. The reasons were written by people who looked at each
planted error; they are not proofs.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Equivalent(NamedTuple):
    """Mutants of one kind, and why they change nothing. The first three fields are regular expressions.

    Args:
        subjects: names of the subjects.
        place: file and function of the equation, such as ``pooling.py (pool_back)``.
        mutants: descriptions of the errors.
        reason: why they have no effect, or no effect here.
    """

    subjects: str
    place: str
    mutants: str
    reason: str


IN_ULP = "It changes digits below 1e-13 of the terms, or x far in the tails; the comparison in ULP covers both."
SHIFT = "The maximum that is subtracted cancels: any shift gives the same, until numbers overflow."
FROM_TOP = "The same number may be subtracted from all cotangents of a softmax; this only keeps digits in the tails."
TOP = "It chooses between two forms of the same number; the second is for the tails, where contracts/test_tails.py is."
PADDING = "Padding is 0 already, or is masked once more later."
CROPPED = "What is padded here is cropped, or multiplied by 0, later on."
TIES = "No window has this many equal values at these points; max_pool_of_ties has, and finds it."
VALID = "A guard for labels that mean nothing. This case has none; tests of losses do."
NOT_HERE = (
    "No label is ignored here, and targets sum to 1; the variants with ignored labels and class weights cover it."
)
ZERO = "The cotangent of the last state comes with the outputs, and is 0 already."
ONE = "The factor is 1 here; the variant with another value covers it."
UNUSED = "A guard against overflow in the branch that is not chosen."
SCALED = "A scale against overflow, which cancels, and a guard for vectors of zeros, which this case does not have."
STEP = "heaviside uses this branch only for x = 0, where both sides are 0, and for NaN."

EQUIVALENT = (
    Equivalent(".*", r"accurate_derivatives\.py \(.*\)", ".*", IN_ULP),
    Equivalent(".*", r"sigmoids\.py \(_(tanh|sigmoid)_derivative\)", "(abs|neg): dropped", IN_ULP),
    Equivalent(".*", r"sigmoids\.py \(_over_cosh_squared\)", "(abs: dropped|mul: second factor dropped)", IN_ULP),
    Equivalent("s?elu", r"piecewise\.py \(_s?elu_derivative\)", "min: .*", UNUSED),
    Equivalent("s?elu", r"piecewise\.py \(_s?elu_derivative\)", "mul: (first|second) factor dropped", ONE),
    Equivalent("elu", r"piecewise\.py \(_elu_derivative\)", "(select_n: always the first branch|gt: 0 became 1)", ONE),
    Equivalent(
        "hard_silu", r"piecewise\.py \(_hardsilu_derivative\)", "gt: 0 became 1", "This is computed for |x| ≥ 3 only."
    ),
    Equivalent(".*", r"derivative_rules\.py \(_from_top\)", ".*", FROM_TOP),
    Equivalent(".*", r"derivative_rules\.py \(softmax_product\)", "gt: .*", FROM_TOP),
    Equivalent(".*", r"softmaxes\.py \(_log_softmax_pullback\)", "gt: .*", TOP),
    Equivalent("(log_)?softmax|cross_entropy.*", r"derivative_rules\.py \(softmax_of\)", "(reduce_max|sub): .*", SHIFT),
    Equivalent("neuron|identity", r"activation_types\.py \(Activation\..*\)", "mul: first factor dropped", ONE),
    Equivalent("cross_entropy.*", r"multiclass\.py \(.*gradients\)", "mul: second factor dropped", NOT_HERE),
    Equivalent(
        "cross_entropy.*", r"multiclass\.py \(.*(gradients|targets)\)", "select_n: always the first branch", NOT_HERE
    ),
    Equivalent(
        "cross_entropy.*ignoring",
        r"multiclass\.py \(.*counted\)",
        "select_n: always the first branch",
        "The rows of ignored labels are set to 0 once more, after the targets are made.",
    ),
    Equivalent(
        "cross_entropy_weighted.*",
        r"(multiclass\.py \(.*gradients\)|softmaxes\.py \(_log_softmax_pullback\))",
        "reduce_sum: last term left out",
        "The last class has the weight 0, and with it the last target.",
    ),
    Equivalent("cross_entropy.*|kl.*", r"labels\.py \((are_probabilities|one_hot)\)", "(and|le|select_n): .*", VALID),
    Equivalent("binary_cross_entropy.*", r"binary\.py \(_binary_targets\)", "(and|le): .*", VALID),
    Equivalent("hinge|.*cross_entropy.*|kl.*", r"weighting\.py \(nan_unless\)", "(mul|select_n): .*", VALID),
    Equivalent("hinge", r"binary\.py \(_hinge_gradients\)", "(ne: inverted|select_n: .*)", STEP),
    Equivalent("multi.*", r"multiclass\.py \(_multiclass_hinge_gradients\)", "(ne: inverted|select_n: .*)", STEP),
    Equivalent(
        "multi.*",
        r"multiclass\.py \(_margins\)",
        "(eq: 1 became 2|select_n: always the first branch)",
        "The label's own margin becomes 1 in place of 0: what is added to the label is subtracted again.",
    ),
    Equivalent(
        "multi.*",
        r"weighting\.py \(times\)",
        "(select_n|mul): .*",
        "A guard against 0 · ∞, and no number is infinite here.",
    ),
    Equivalent("cosine_distance", r"regression\.py \((_directions|_cosine_distance_gradients)\)", ".*", SCALED),
    Equivalent(".*", r"(multi_head|unrolling)\.py \(_where\)", "select_n: always the second branch", PADDING),
    Equivalent("transformer_block", r"standardize\.py \(Groups\.real\)", "select_n: always the second branch", PADDING),
    Equivalent(
        ".*", r"children\.py \(_zero_padding\)", "(select_n: always the second branch|jit: 0 became 1)", PADDING
    ),
    Equivalent(".*", r"unrolling\.py \(.*scan_backward\)", r"scan: carry \d starts from 0", ZERO),
    Equivalent("conv.*", r"sliding_windows\.py \((sum_window_places|window_places)\)", "pad: 0 became 1", CROPPED),
    Equivalent("conv.*|resnet", r"platform_programs\.py \((_jvp|bilinear)\)", "pad: 0 became 1", CROPPED),
    Equivalent(
        "global_max_pool.*",
        r"pooling\.py \(.*pool_back\)",
        "max: (second dropped|1 became 0)",
        "Some element is always the largest, so the count is at least 1.",
    ),
    Equivalent("cnn|lenet|deep_cnn", r"pooling\.py \(_share\)", "(eq|jit|select_n): .*", TIES),
    Equivalent("cnn|lenet|deep_cnn", r"pooling\.py \(max_pool.*backward\)", "mul: second factor dropped", TIES),
    Equivalent("l[12].*", r"\?", "mul: .*", "The other factor is 0: this parameter is not penalized."),
    Equivalent(
        "repeat_with_state", r"repeat\.py \(.*\)", "scan: input 3 .*", "It is the number of examples, in every block."
    ),
    Equivalent("remat", r"dropout\.py \(.*\)", "jit: 0.7 became .*", "No random number lies between the two."),
)


def reason_for(subject: str, mutant: str) -> str:
    """Looks up why a surviving mutant changes nothing; gives an empty text if that is not known.

    Args:
        subject: the name of the formula.
        mutant: the mutant as text, such as ``pooling.py:12 (pool_back): mul: second factor dropped``.
    """
    without_line = re.sub(r"(\.py):\d+", r"\1", mutant)
    place, _, description = without_line.partition(": ")
    for known in EQUIVALENT:
        if (
            re.fullmatch(known.subjects, subject)
            and re.fullmatch(known.place, place)
            and re.fullmatch(known.mutants, description)
        ):
            return known.reason
    return ""
