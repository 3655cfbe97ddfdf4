"""The check of one problem: all comparisons of its formula, and errors that are planted in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from functional_nn.gradients.compare.captured_arrays import converted_anew, pulled_back
from functional_nn.gradients.compare.jacobian_comparison import JacobianComparison
from functional_nn.gradients.compare.problem import Problem
from functional_nn.gradients.compare.report import Report
from functional_nn.gradients.mutation.planting import plant


def check_problem(
    subject: str,
    problem_in: Callable[[str], Problem],
    types: Sequence[str],
    *,
    seed: int,
    second_order: bool,
    mutants: bool,
    kinks_as_automatic: bool = True,
    stop_gradient_as_constant: bool = False,
    equivalent: Mapping[str, str] | None = None,
) -> Report:
    """Compares the formula of a problem in float64 and in other types. Errors are planted only if it passes.

    Args:
        subject: the name in the verdicts.
        problem_in: ``problem_in(dtype)`` gives the problem in that type.
        types: the types for the comparison.
        seed: for drawing the cotangents.
        second_order: whether the derivative of the formula is compared, too.
        mutants: whether errors are planted.
        kinks_as_automatic: whether the formula has to give the values of ``jax.grad`` at kinks.
        stop_gradient_as_constant: whether results of ``stop_gradient`` are constants. There is then no second order.
        equivalent: reasons why a planted error changes nothing, by its description.
    """
    started = time.perf_counter()
    planted, survivors = 0, ()
    with converted_anew(partial(pulled_back, problem_in)):
        comparison = JacobianComparison(
            subject,
            problem_in,
            seed=seed,
            kinks_as_automatic=kinks_as_automatic,
            stop_gradient_as_constant=stop_gradient_as_constant,
        )
        verdicts = list(comparison.first_order())
        if second_order and not stop_gradient_as_constant:
            verdicts += comparison.second_order()
        for dtype in types:
            verdicts += comparison.in_type(dtype)
        if mutants and not any(verdict.outcome == "fail" for verdict in verdicts):
            planted, survivors = plant(comparison, equivalent=equivalent)
    seconds = time.perf_counter() - started
    return Report(tuple(verdicts), planted, survivors, seconds=seconds, title=subject)
