"""Errors planted in a formula, to test the comparison itself: it has to find every error."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare.comparison import JacobianComparison
from functional_nn.gradients.compare.problem import DifferentiableLeaves, Leaves, differentiable_leaves
from functional_nn.gradients.compare.report import Survivor
from functional_nn.gradients.digits.interpreter import Program
from functional_nn.gradients.digits.numbers import Arithmetic
from functional_nn.gradients.mutation.mutants import AtEquation, Mutants, mutate
from functional_nn.jaxprs.xla_options import quick_jit

MOST_MUTANTS = 100
"""The largest number of planted errors in the equations of a formula. All errors in its results are tried too."""
DIGITS, AGREEING_DIGITS = 50, 40
"""The number of digits in the comparison of a survivor with the formula, and how many of them have to agree."""
NO_MUTANT = -1
"""With this number, the formula itself is evaluated, without a mutant."""
UNCHANGED = "It changes nothing at any point: this derivative is 0, or the same along the axis."
TOO_SMALL = "It changes less than the rounding in the narrow type that the function computes in."
ONLY_ROUNDING = "It changes nothing but rounding: with 50 digits, the results agree to 40."
BELOW_ROUNDING = "Rounding in this function can change this component by more than a millionth."
HIDDEN = "It changes a value that a later selection leaves out at every point."
SAME_OPERANDS = "It changes nothing: the new value is the old one at every point, as where a term of 0 is dropped."
OF_CONSTANTS = "It changes nothing: the operation has the same operands at every point, and the same result."
INSIDE_JAX = "It changes a part of a function of JAX that no point reaches, such as its rule for infinity."
A_MILLIONTH_MORE = "component × (1 + 1e-6)"


def plant(
    comparison: JacobianComparison, *, limit: int = MOST_MUTANTS, equivalent: Mapping[str, str] | None = None
) -> tuple[int, tuple[Survivor, ...]]:
    """Plants errors in the problem's backward pass, or in its pullback if it has none.

    If the comparison does not find a mutant at the problem's own point, it tries the further points.

    Args:
        comparison: the comparison of the problem.
        limit: the largest number of planted errors in the formula's equations.
        equivalent: reasons why a mutant is not an error, by the mutant's description.

    Returns:
        The number of planted errors, and those that were not found.
    """
    problem = comparison.problem
    with jax.enable_x64(True):
        # For a problem without a separate forward pass, the leaves take the place of the residuals.
        residuals = quick_jit(problem.residuals) if problem.residuals else _as_arrays
        first = residuals(problem.leaves), _as_arrays(comparison.y_bars)
        mutants = mutate(problem.backward or problem.pullback, *first, limit=limit)
    if not len(mutants):
        return 0, ()
    dead, changed = np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)
    points: list[tuple[PyTree, Leaves]] = []
    further = ((point.leaves, point.y_bars) for point in comparison.further_points)
    for leaves, y_bars in itertools.chain([(problem.leaves, comparison.y_bars)], further):
        with jax.enable_x64(True):
            given = residuals(leaves), _as_arrays(y_bars)
        points.append(given)
        dead_here, changed_here = comparison.killed(mutants, given, leaves)
        dead |= dead_here
        changed |= changed_here
        if dead.all():
            break

    def reason(number: int) -> str:
        mutant = mutants[number]
        if not changed[number] and mutant.family == "bar":
            return UNCHANGED
        if not changed[number] and comparison.note:
            return TOO_SMALL
        listed = (equivalent or {}).get(mutant.description) or reason_for(comparison.subject, str(mutant))
        if not listed and comparison.loses_digits and mutant.description.endswith(A_MILLIONTH_MORE):
            return BELOW_ROUNDING
        is_hidden = mutant.family == "selection" and not changed[number]
        shown = listed or _reason_at_equation(seen.get(number, ()), is_hidden=is_hidden)
        if shown or _changes_only_rounding(mutants, number, points):
            return shown or ONLY_ROUNDING
        return INSIDE_JAX if mutant.family == "library" and not changed[number] else ""

    survivors = np.flatnonzero(~dead).tolist()
    with jax.enable_x64(True):
        seen = mutants.at_equations(survivors, points)
    return len(mutants), tuple(
        Survivor(comparison.subject, str(mutants[number]), reason(number)) for number in survivors
    )


def _reason_at_equation(at_points: Sequence[AtEquation], *, is_hidden: bool) -> str:
    """Why a mutant that no comparison found is not an error, if its own equation shows that; otherwise an empty text.

    Args:
        at_points: what the mutant does to its equation, at all points that were tried; empty if this is not known.
        is_hidden: whether the mutant is an error in a selection, and changes no result of the formula.
    """
    if not at_points:
        return ""
    if all(one.same_operands for one in at_points):
        return SAME_OPERANDS
    changes = any(one.changes for one in at_points)
    if not changes and all(one.operands == at_points[0].operands for one in at_points):
        return OF_CONSTANTS
    return HIDDEN if is_hidden and changes else ""


def _changes_only_rounding(mutants: Mutants, number: int, points: Sequence[tuple[PyTree, Leaves]]) -> bool:
    """Whether a mutant and the formula agree in exact arithmetic. For example, softmax is the same with another shift.

    Both are evaluated with 50 digits at all points. The last digits have to differ at some point. If all digits are
    equal everywhere, nothing is shown: the error may be in a branch that no point takes.
    """
    arithmetic = Arithmetic(DIGITS)
    differs = False
    for arguments in points:
        inputs = differentiable_leaves(arguments)

        # The inputs are a default value, because a function in a loop would read the variable's last value.
        def results(active: int, inputs: DifferentiableLeaves = inputs) -> np.ndarray:
            def bars(leaves: Leaves) -> Leaves:
                return jax.tree.leaves(mutants.alone(active, *inputs.join(leaves)))

            program = Program(bars, inputs.leaves)
            return program(arithmetic, [arithmetic.numbers(leaf)[..., None] for leaf in inputs.leaves])

        try:
            with jax.enable_x64(True), arithmetic.precision(), np.errstate(all="ignore"):
                right, found = results(NO_MUTANT), results(number)
                difference, size = np.max(np.abs(found - right), initial=0), np.max(np.abs(right), initial=0)
        except InputError:  # an operation has no rule
            return False
        if not difference <= size * 10.0**-AGREEING_DIGITS:
            return False
        differs |= bool(difference > 0)
    return differs


def _as_arrays(leaves: Leaves) -> list[jax.Array]:
    return [jnp.asarray(leaf) for leaf in leaves]


EQUIVALENT: dict[str, list[tuple[str, str, str]]] = {
    "It changes digits below 1e-13 of the terms, or x far in the tails; the comparison in ULP covers both.": [
        (".*", r"accurate_derivatives\.py \((?!softmax_)(?!_softmax)(?!_from_top)(?!with_second).*\)", ".*"),
        (".*", r"smooth\.py \(_(tanh|sigmoid)_derivative\)", "(abs|neg): dropped"),
        (".*", r"smooth\.py \(_over_cosh_squared\)", "(abs: dropped|mul: second factor dropped)"),
    ],
    "A guard against overflow in the branch that is not chosen.": [
        ("s?elu", r"piecewise\.py \(_s?elu_derivative\)", "min: .*"),
    ],
    "The factor is 1 here; the variant with another value covers it.": [
        ("s?elu", r"piecewise\.py \(_s?elu_derivative\)", "mul: (first|second) factor dropped"),
        ("elu", r"piecewise\.py \(_elu_derivative\)", "(select_n: always the first branch|gt: 0 became 1)"),
        ("neuron|identity", r"activation_types\.py \(Activation\..*\)", "mul: first factor dropped"),
    ],
    "This is computed for |x| ≥ 3 only.": [("hard_silu", r"piecewise\.py \(_hardsilu_derivative\)", "gt: 0 became 1")],
    "The same number may be subtracted from all cotangents of a softmax; this only keeps digits in the tails.": [
        (".*", r"accurate_derivatives\.py \(_from_top\)", ".*"),
        (".*", r"accurate_derivatives\.py \(softmax_product\)", "gt: .*"),
    ],
    "It chooses between two forms of the same number; the second is for the tails, where contracts/test_tails.py is.": [
        (".*", r"smooth\.py \(_log_softmax_pullback\)", "gt: .*"),
    ],
    "The maximum that is subtracted cancels: any shift gives the same, until numbers overflow.": [
        ("(log_)?softmax|cross_entropy.*", r"accurate_derivatives\.py \(softmax_of\)", "(reduce_max|sub): .*"),
    ],
    "No label is ignored here, and targets sum to 1; the variants with ignored labels and class weights cover it.": [
        ("cross_entropy.*", r"classification\.py \(.*gradients\)", "mul: second factor dropped"),
        ("cross_entropy.*", r"classification\.py \(.*(gradients|targets)\)", "select_n: always the first branch"),
    ],
    "The rows of ignored labels are set to 0 once more, after the targets are made.": [
        ("cross_entropy.*ignoring", r"classification\.py \(.*counted\)", "select_n: always the first branch"),
    ],
    "The last class has the weight 0, and with it the last target.": [
        ("cross_entropy_weighted.*", r"classification\.py \(.*gradients\)", "reduce_sum: last term left out"),
        ("cross_entropy_weighted.*", r"smooth\.py \(_log_softmax_pullback\)", "reduce_sum: last term left out"),
    ],
    "A guard for labels that mean nothing. This case has none; tests of losses do.": [
        ("cross_entropy.*|kl.*", r"loss\.py \((are_probabilities|one_hot)\)", "(and|le|select_n): .*"),
        ("binary_cross_entropy.*", r"classification\.py \(_binary_targets\)", "(and|le): .*"),
        ("hinge|.*cross_entropy.*|kl.*", r"loss\.py \(nan_unless\)", "(mul|select_n): .*"),
    ],
    "heaviside uses this branch only for x = 0, where both sides are 0, and for NaN.": [
        ("hinge", r"classification\.py \(_hinge_gradients\)", "(ne: inverted|select_n: .*)"),
        ("multi.*", r"classification\.py \(_multiclass_hinge_gradients\)", "(ne: inverted|select_n: .*)"),
    ],
    "The label's own margin becomes 1 in place of 0: what is added to the label is subtracted again.": [
        ("multi.*", r"classification\.py \(_margins\)", "(eq: 1 became 2|select_n: always the first branch)"),
    ],
    "A guard against 0 · ∞, and no number is infinite here.": [
        ("multi.*", r"loss\.py \(times\)", "(select_n|mul): .*"),
    ],
    "A scale against overflow, which cancels, and a guard for vectors of zeros, which this case does not have.": [
        ("cosine_distance", r"regression\.py \((_directions|_cosine_distance_gradients)\)", ".*"),
    ],
    "Padding is 0 already, or is masked once more later.": [
        (".*", r"(attention|unrolling)\.py \(_where\)", "select_n: always the second branch"),
        ("transformer_block", r"normalization\.py \(Groups\.real\)", "select_n: always the second branch"),
        (".*", r"children\.py \(_zero_padding\)", "(select_n: always the second branch|jit: 0 became 1)"),
    ],
    "The cotangent of the last state comes with the outputs, and is 0 already.": [
        (".*", r"unrolling\.py \(.*scan_backward\)", r"scan: carry \d starts from 0"),
    ],
    "What is padded here is cropped, or multiplied by 0, later on.": [
        ("conv.*|resnet", r"sliding_windows\.py \((sum_window_places|window_places)\)", "pad: 0 became 1"),
        ("conv.*", r"conv\.py \(_product_of_pairs\)", "pad: 0 became 1"),
    ],
    "Some element is always the largest, so the count is at least 1.": [
        ("global_max_pool.*", r"pooling\.py \(.*pool_back\)", "max: (second dropped|1 became 0)"),
    ],
    "No window has this many equal values at these points; max_pool_of_ties has, and finds it.": [
        ("cnn|lenet|deep_cnn", r"pooling\.py \(_share\)", "(eq|jit|select_n): .*"),
        ("cnn|lenet|deep_cnn", r"pooling\.py \(max_pool.*backward\)", "mul: second factor dropped"),
    ],
    "The other factor is 0: this parameter is not penalized.": [("l[12].*", r"\?", "mul: .*")],
    "It is the number of examples, in every block.": [
        ("repeat_with_state", r"wrappers\.py \(repeat.*\)", "scan: input 3 .*"),
    ],
    "No random number lies between the two.": [("remat", r"dropout\.py \(.*\)", "jit: 0.7 became .*")],
}
"""Why mutants change nothing, or nothing here: each reason with the mutants that it holds for, as regular expressions
of the subject, of the equation's file and function, and of the error's description."""


def reason_for(subject: str, mutant: str) -> str:
    """Looks up why a surviving mutant changes nothing; gives an empty text if that is not known.

    Args:
        subject: the name of the formula.
        mutant: the mutant as text, such as ``pooling.py:12 (pool_back): mul: second factor dropped``.
    """
    place, _, description = re.sub(r"(\.py):\d+", r"\1", mutant).partition(": ")
    given = subject, place, description
    for reason, known in EQUIVALENT.items():
        if any(all(map(re.fullmatch, patterns, given)) for patterns in known):
            return reason
    return ""
