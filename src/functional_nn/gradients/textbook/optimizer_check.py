"""The comparison of Optax's optimizers with their textbook rules, over whole trajectories."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from functional_nn.core import trees
from functional_nn.core.errors import InputError
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import as_host_array, check_choice, check_count, check_number, shown
from functional_nn.gradients.compare.captured_arrays import converted_anew
from functional_nn.gradients.compare.compared_values import relative_error
from functional_nn.gradients.compare.report import Report
from functional_nn.gradients.compare.verdict import Outcome, Verdict
from functional_nn.gradients.textbook import TextbookRule
from functional_nn.gradients.textbook.optimizer_cases import CASES
from functional_nn.gradients.textbook.trajectories import (
    DIGITS,
    Scenario,
    exact_trajectory,
    optax_trajectories,
    rounded_trajectory,
    scenarios,
)

TOLERANCES = {"float64": 1e-12, "float32": 1e-4}
"""The largest distance of a parameter, relative to the sum of the absolute values of its start and of all its moves."""
MARGIN = 10
"""Rounding in another order may cause an error this many times larger than the rule's own rounding error."""


@dataclass(frozen=True)
class TrajectoryVerdict(Verdict):
    """The verdict on the trajectory of one parameter. ``hand`` is Optax's value; ``arbiter`` is the rule's.

    Args:
        step: the first step, counted from 1, that decides the outcome. If all steps agree, the step with the largest
            error.
    """

    step: int = 0

    @property
    def sentence(self) -> str:
        """A sentence that says at which step Optax and the textbook rule differ."""
        size = f"error {self.error:.2g} {self.unit}, {self.tolerance:.2g} allowed"
        if self.outcome == "pass":
            conclusion = f"Optax and the textbook rule agree ({size})"
        elif self.outcome == "fail":
            values = f"Optax {self.hand:.9g}, textbook {self.arbiter:.9g}"
            conclusion = f"differs first at step {self.step}: {values} ({size})"
        else:
            conclusion = f"cannot be told from step {self.step} on, because rounding alone is too large ({size})"
        return f"{self._place}: {conclusion}. {self.note}".strip()


def check_optimizer(
    transformation: optax.GradientTransformation,
    textbook_rule: TextbookRule,
    parameters: PyTree = None,
    *,
    gradients: PyTree = None,
    curvature: float = 0.0,
    steps: int = 1000,
    dtype: str = "float64",
    tolerance: float | None = None,
    subject: str = "",
    regimes: Sequence[str] = (),
) -> Report:
    """Follows an Optax optimizer and a textbook rule step by step, and says at which step they differ.

    Optax runs in one compiled scan, in ``dtype``. The rule runs in 50 decimal digits, on the exact binary values of
    the parameters, the gradients and the hyper-parameters. After every step, the distance of each element is divided
    by the sum of the absolute values of its start and of all its moves so far. The rule also runs in ``dtype``. As soon
    as this run has an error above ``tolerance``, rounding alone could explain a difference. Then the verdict is
    inconclusive.

    In float32, build the optimizer and the rule from the same float32 numbers: from a Python float 0.999, Optax makes
    both float32(0.999) and float32(1 - 0.999), whose sum is not 1.

    Args:
        transformation: the optimizer, or any chain with updates that are added to the parameters.
        textbook_rule: a rule from ``functional_nn.gradients.textbook``, or your own.
        parameters: a tree of arrays; by default a weight of shape (2, 3) and a bias of shape (3,).
        gradients: the same tree with a leading axis of steps; by default four regimes, see ``trajectories.scenarios``.
        curvature: the gradients at step t are ``gradients[t - 1] + curvature * parameters``.
        steps: the number of steps, if no gradients are given.
        dtype: ``"float64"`` or ``"float32"``.
        tolerance: the largest error of an element; by default 1e-12 in float64 and 1e-4 in float32.
        subject: the name in tables; by default the rule's.
        regimes: names of the default regimes to run; by default all. Not with gradients of your own.

    Raises:
        InputError: an argument cannot be used.

    >>> from functional_nn.gradients.textbook import Adam
    >>> check_optimizer(optax.adam(0.1), Adam(0.1), steps=20).passed
    True
    >>> report = check_optimizer(optax.adam(0.1), Adam(0.1, eps=1e-6), gradients={"w": np.ones((9, 1))},
    ...                          parameters={"w": np.zeros(1)})
    >>> print(report.sentence)
    Adam: w, element (0,) (trajectory, float64, scan, given): differs first at step 1: Optax -0.099999999, ...
    """
    started = time.perf_counter()
    if not (callable(getattr(transformation, "init", None)) and callable(getattr(transformation, "update", None))):
        raise InputError("transformation", "an Optax transformation", shown(transformation))
    check_choice("dtype", dtype, TOLERANCES)
    check_number("curvature", curvature)
    if tolerance is not None:
        check_number("tolerance", tolerance, "a number above 0", lambda tolerance: tolerance > 0)
    if not isinstance(regimes, list | tuple) or not all(isinstance(name, str) for name in regimes):
        raise InputError("regimes", "a list of names", shown(regimes))
    if not isinstance(textbook_rule, TextbookRule):
        raise InputError("textbook_rule", "a TextbookRule", repr(textbook_rule), "Derive yours from TextbookRule.")
    number = np.dtype(dtype).type
    if parameters is None:
        random = np.random.default_rng(0)
        parameters = {"weight": random.normal(size=(2, 3)), "bias": random.normal(size=3)}
    parameters = jax.tree.map(lambda w: _finite("parameters", w).astype(number), parameters)
    if not all(leaf.size for leaf in jax.tree.leaves(parameters)) or not jax.tree.leaves(parameters):
        raise InputError("parameters", "at least one number in each array", "none")
    if gradients is None:
        check_count("steps", steps)
        if curvature:
            raise InputError("curvature", "0 without gradients", curvature, "Give gradients too.")
        runs = _chosen_scenarios(parameters, steps, regimes)
    else:
        if regimes:
            raise InputError("regimes", "no regimes with gradients", shown(regimes), "Give one or the other.")
        runs = {"given": _given_scenario(parameters, gradients, number(curvature))}

    def one_step() -> object:
        arrays = jax.tree.map(jnp.asarray, parameters)
        return transformation.update(arrays, transformation.init(arrays), arrays)

    with converted_anew(one_step), jax.enable_x64(dtype == "float64"):
        visited = optax_trajectories(transformation, list(runs.values()))
    comparison = _TrajectoryComparison(
        textbook_rule, subject or textbook_rule.name, dtype, TOLERANCES[dtype] if tolerance is None else tolerance
    )
    verdicts = [
        verdict
        for (regime, scenario), by_optax in zip(runs.items(), visited, strict=True)
        for verdict in comparison.verdicts(scenario, by_optax, regime)
    ]
    return Report(tuple(verdicts), seconds=time.perf_counter() - started, title=comparison.subject)


def optimizer_verdicts(quick: bool = False) -> Iterator[Verdict]:
    """Compares every Optax optimizer that has a textbook rule, in every regime, type and kind of learning rate.

    A full comparison takes 1,000 steps in float64 at a constant rate, 300 on a cosine schedule, and 300 in float32. A
    quick one takes 100 steps in float64, and leaves out cases that share a formula with another.
    """
    full = [("float64", 1000, None), ("float64", 300, 300), ("float32", 300, None)]
    for case in CASES:
        if quick and not case.quick:
            continue
        for dtype, steps, schedule_steps in [("float64", 100, None)] if quick else full:
            transformation, rule = case.pair(dtype, schedule_steps=schedule_steps)
            subject = f"{case.name}, cosine schedule" if schedule_steps else case.name
            regimes = ("normal", "quadratic") if schedule_steps else ()
            report = check_optimizer(transformation, rule, steps=steps, dtype=dtype, subject=subject, regimes=regimes)
            yield from report.verdicts


def _chosen_scenarios(parameters: PyTree, steps: int, regimes: Sequence[str]) -> dict[str, Scenario]:
    known = scenarios(parameters, steps)
    for name in regimes:
        if name not in known:
            raise InputError("regimes", "known names", repr(name), suggest(name, known))
    return {name: known[name] for name in (regimes or known)}


def _finite(argument: str, array: ArrayLike) -> np.ndarray:
    numbers = as_host_array(argument, array)
    if not np.isfinite(numbers).all():
        raise InputError(argument, "finite numbers", f"NaN or infinity in {shown(numbers)}")
    return numbers


def _given_scenario(parameters: PyTree, gradients: PyTree, curvature: np.floating) -> Scenario:
    if jax.tree.structure(gradients) != jax.tree.structure(parameters):
        expected = f"the parameters' tree {jax.tree.structure(parameters)}"
        raise InputError("gradients", expected, jax.tree.structure(gradients))
    gradients = jax.tree.map(lambda w, g: _finite("gradients", g).astype(w.dtype), parameters, gradients)
    lengths = {g.shape[:1] for g in jax.tree.leaves(gradients)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise InputError("gradients", "the same number of steps in front of every array", sorted(lengths))
    for (path, w), g in zip(trees.flatten(parameters).items(), jax.tree.leaves(gradients), strict=True):
        if g.shape[1:] != w.shape:
            raise InputError(f"gradients of {path}", f"shape (steps, *{w.shape})", g.shape)
    return Scenario(parameters, gradients, np.asarray(curvature))


@dataclass(frozen=True)
class _TrajectoryComparison:
    """Compares trajectories of Optax with those of a textbook rule.

    Args:
        rule: the textbook rule.
        subject: the name in the verdicts.
        dtype: the type that Optax computes in.
        tolerance: the largest error allowed.
    """

    rule: TextbookRule
    subject: str
    dtype: str
    tolerance: float

    def verdicts(self, scenario: Scenario, visited: PyTree, regime: str) -> list[TrajectoryVerdict]:
        """One verdict for each array of parameters.

        Args:
            scenario: the start and the gradients.
            visited: Optax's parameters after every step.
            regime: the name of the scenario.
        """
        starts = trees.flatten(scenario.parameters)
        by_optax = [leaf.astype(np.float64) for leaf in jax.tree.leaves(visited)]
        exact, rounded = exact_trajectory(self.rule, scenario), rounded_trajectory(self.rule, scenario)
        found = []
        for (path, start), ours, right, in_type in zip(starts.items(), by_optax, exact, rounded, strict=True):
            # The sum of the absolute values of the start and of all moves so far.
            moves = np.abs(np.diff(right, axis=0, prepend=start[None].astype(np.float64)))
            terms = np.abs(start) + np.cumsum(moves, axis=0)
            error = relative_distance(ours - right, terms)
            # The largest rounding error so far, over all elements: rounding may move from one element to another.
            rounding = np.maximum.accumulate(relative_distance(in_type - right, terms), axis=0)
            largest = rounding.max(axis=tuple(range(1, rounding.ndim)), keepdims=True)
            rounding = np.broadcast_to(largest, rounding.shape)
            outcome, place = _decide(error, rounding, self.tolerance)
            step, *index = place
            found.append(
                TrajectoryVerdict(
                    self.subject,
                    path,
                    outcome,
                    float(error[place]),
                    self.tolerance,
                    kind="trajectory",
                    dtype=self.dtype,
                    transform="scan",
                    regime=regime,
                    reference=f"textbook rule, {DIGITS} digits",
                    reference_error=float(rounding[place]),
                    index=tuple(index),
                    hand=float(ours[place]),
                    arbiter=float(right[place]),
                    step=step + 1,
                )
            )
        return found


def relative_distance(difference: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """|difference| / terms. It is 0 if there is no difference, and infinite if the quotient is NaN."""
    quotient = relative_error(difference, terms)
    return np.where(np.isnan(quotient), np.inf, quotient)


def _decide(error: np.ndarray, rounding: np.ndarray, tolerance: float) -> tuple[Outcome, tuple[int, ...]]:
    """The outcome, and the index (step, *element) that decides it: the worst element of the first wrong step."""
    # Above the tolerance, the size of the rounding no longer matters. The bound avoids ∞ - ∞ in the next line.
    rounding = np.minimum(rounding, MARGIN * tolerance)
    failed = (error - MARGIN * rounding > tolerance) & (rounding <= tolerance)
    unclear = error + rounding > tolerance
    decisive: dict[Outcome, np.ndarray] = {"fail": failed, "inconclusive": unclear}
    for outcome, places in decisive.items():
        steps = np.flatnonzero(places.reshape(len(places), -1).any(axis=1))
        if len(steps):
            step = int(steps[0])
            worst = np.argmax(np.where(places[step], error[step], -1.0))
            element = np.unravel_index(worst, error.shape[1:])
            return outcome, (step, *map(int, element))
    return "pass", tuple(map(int, np.unravel_index(np.argmax(error), error.shape)))
