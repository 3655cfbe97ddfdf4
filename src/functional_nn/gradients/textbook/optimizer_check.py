"""Optax's optimizers against their textbook rules, over whole trajectories."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from functional_nn.core import trees
from functional_nn.core.errors import InputError, suggest
from functional_nn.core.validation import as_host_array, check_choice, check_count, check_number, shown
from functional_nn.gradients.compare.report import Outcome, Report, Verdict
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
"""What a parameter may be off, in parts of the sum of the absolute values of its start and of all its moves."""


MARGIN = 10
"""Rounding in another order may lead this many times further away than it led the rule itself."""


@dataclass(frozen=True)
class TrajectoryVerdict(Verdict):
    """The verdict on one parameter's trajectory: ``hand`` is where Optax is, ``arbiter`` where the textbook rule is.

    Args:
        step: the first step, counted from 1, at which the outcome is decided; where all agree, the one that is worst.
    """

    step: int = 0

    @property
    def sentence(self) -> str:
        """Where Optax and the textbook rule part, in words."""
        place = f"{self.subject}: {self.leaf}" + (f", element {self.index}" if self.index else "")
        circumstances = ", ".join([self.kind, self.dtype, self.transform, self.regime])
        size = f"error {self.error:.2g} {self.unit}, {self.tolerance:.2g} allowed"
        said = {
            "pass": f"Optax and the textbook rule agree ({size})",
            "fail": f"differs first at step {self.step}: Optax {self.hand:.9g}, textbook {self.arbiter:.9g} ({size})",
            "inconclusive": f"cannot be told from step {self.step} on, where rounding alone is too large ({size})",
        }[self.outcome]
        return f"{place} ({circumstances}): {said}. {self.note}".strip()


def check_optimizer(
    transformation: optax.GradientTransformation,
    textbook_rule: TextbookRule,
    parameters: Any = None,
    *,
    gradients: Any = None,
    curvature: float = 0.0,
    steps: int = 1000,
    dtype: str = "float64",
    tolerance: float | None = None,
    subject: str = "",
    regimes: Sequence[str] = (),
) -> Report:
    """Follows an Optax optimizer and a textbook rule step by step, and says where they part.

    Optax runs in one compiled scan, in ``dtype``; the rule runs at 50 decimal digits, on the exact binary values of
    the parameters, the gradients and the hyper-parameters. Each element's distance, after every step, is divided by
    the sum of the absolute values of its start and of all its moves so far. The rule runs in ``dtype`` as well: from
    where that is off by more than ``tolerance``, rounding decides, and the verdict is inconclusive.

    In float32, build the optimizer from float32 numbers and the rule from the same ones: of a Python float 0.999,
    Optax sees both float32(0.999) and float32(1 - 0.999), which do not sum to 1.

    Args:
        transformation: the optimizer, or any chain that ends in updates which are added to the parameters.
        textbook_rule: of ``functional_nn.gradients.textbook``, or your own.
        parameters: a tree of arrays; by default a weight of shape (2, 3) and a bias of shape (3,).
        gradients: the same tree with steps in front; by default four regimes, see ``trajectories.scenarios``.
        curvature: the gradients at step t are ``gradients[t - 1] + curvature * parameters``.
        steps: how many, where no gradients are given.
        dtype: ``"float64"`` or ``"float32"``.
        tolerance: what an element may be off; by default 1e-12 in float64 and 1e-4 in float32.
        subject: the name in tables; by default the rule's.
        regimes: which of the default regimes; by default all.

    Raises:
        InputError: where an argument cannot be used.

    >>> from functional_nn.gradients.textbook import Adam
    >>> check_optimizer(optax.adam(0.1), Adam(0.1), steps=20).passed
    True
    >>> report = check_optimizer(optax.adam(0.1), Adam(0.1, eps=1e-6), gradients={"w": np.ones((9, 1))},
    ...                          parameters={"w": np.zeros(1)})
    >>> print(report.sentence)
    Adam: w, element (0,) (trajectory, float64, scan, given): differs first at step 1: Optax -0.099999999, ...
    """
    began = time.perf_counter()
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
    parameters = jax.tree.map(lambda w: as_host_array("parameters", w).astype(number), parameters)
    if not all(leaf.size for leaf in jax.tree.leaves(parameters)) or not jax.tree.leaves(parameters):
        raise InputError("parameters", "at least one number in each array", "none")
    if gradients is None:
        check_count("steps", steps)
        if curvature:
            raise InputError("curvature", "0 without gradients", curvature, "Give gradients too.")
        known = scenarios(parameters, steps)
        for name in regimes:
            if name not in known:
                raise InputError("regimes", "known names", repr(name), suggest(name, known))
        runs = {name: known[name] for name in (regimes or known)}
    else:
        runs = {"given": _given(parameters, gradients, number(curvature))}
    with jax.enable_x64(dtype == "float64"):
        visited = optax_trajectories(transformation, list(runs.values()))
    allowed = TOLERANCES[dtype] if tolerance is None else tolerance
    verdicts = [
        verdict
        for (regime, scenario), optax_visited in zip(runs.items(), visited, strict=True)
        for verdict in _verdicts(
            textbook_rule, scenario, optax_visited, allowed, subject or textbook_rule.name, dtype, regime
        )
    ]
    return Report(tuple(verdicts), seconds=time.perf_counter() - began)


def checks(quick: bool = False) -> Iterator[Verdict]:
    """The verdicts of every Optax optimizer that has a textbook rule, in every regime, type and kind of learning rate.

    In full, 1,000 steps in float64 at a constant rate, and 300 on a cosine schedule and in float32; quick, 100 steps
    in float64 of those that share no formula.
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


def _given(parameters: Any, gradients: Any, curvature: Any) -> Scenario:
    if jax.tree.structure(gradients) != jax.tree.structure(parameters):
        expected = f"the parameters' tree {jax.tree.structure(parameters)}"
        raise InputError("gradients", expected, jax.tree.structure(gradients))
    gradients = jax.tree.map(lambda w, g: np.asarray(g, w.dtype), parameters, gradients)
    lengths = {g.shape[:1] for g in jax.tree.leaves(gradients)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise InputError("gradients", "the same number of steps in front of every array", sorted(lengths))
    for (path, w), g in zip(trees.flatten(parameters).items(), jax.tree.leaves(gradients), strict=True):
        if g.shape[1:] != w.shape:
            raise InputError(f"gradients of {path}", f"shape (steps, *{w.shape})", g.shape)
    return Scenario(parameters, gradients, np.asarray(curvature))


def _verdicts(
    rule: TextbookRule, scenario: Scenario, visited: Any, tolerance: float, subject: str, dtype: str, regime: str
) -> list[TrajectoryVerdict]:
    starts = trees.flatten(scenario.parameters)
    leaves = [leaf.astype(np.float64) for leaf in jax.tree.leaves(visited)]
    exact, rounded = exact_trajectory(rule, scenario), rounded_trajectory(rule, scenario)
    found = []
    for path, start, ours, true, own in zip(starts, starts.values(), leaves, exact, rounded, strict=True):
        moves = np.abs(np.diff(true, axis=0, prepend=start[None].astype(np.float64)))
        terms = np.abs(start) + np.cumsum(moves, axis=0)
        error = relative(ours - true, terms)
        rounding = np.maximum.accumulate(relative(own - true, terms), axis=0)
        rounding = np.broadcast_to(rounding.max(axis=tuple(range(1, rounding.ndim)), keepdims=True), rounding.shape)
        outcome, where = _decide(error, rounding, tolerance)
        found.append(
            TrajectoryVerdict(
                subject,
                path,
                outcome,
                float(error[where]),
                tolerance,
                kind="trajectory",
                dtype=dtype,
                transform="scan",
                regime=regime,
                reference=f"textbook rule, {DIGITS} digits",
                reference_error=float(rounding[where]),
                index=tuple(map(int, where[1:])),
                hand=float(ours[where]),
                arbiter=float(true[where]),
                step=int(where[0]) + 1,
            )
        )
    return found


def relative(difference: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """|difference| / terms, 0 where there is no difference, and infinite where that is not a number."""
    with np.errstate(all="ignore"):
        quotient = np.where(difference == 0, 0.0, np.abs(difference) / terms)
    return np.where(np.isnan(quotient), np.inf, quotient)


def _decide(error: np.ndarray, rounding: np.ndarray, tolerance: float) -> tuple[Outcome, tuple[Any, ...]]:
    """The outcome, and the step and element that decide it: the worst element of the first step that is not right."""
    rounding = np.minimum(rounding, MARGIN * tolerance)
    failed = (error - MARGIN * rounding > tolerance) & (rounding <= tolerance)
    unclear = error + rounding > tolerance
    decisive: dict[Outcome, np.ndarray] = {"fail": failed, "inconclusive": unclear}
    for outcome, places in decisive.items():
        steps = np.flatnonzero(places.reshape(len(places), -1).any(axis=1))
        if len(steps):
            step = steps[0]
            worst = np.argmax(np.where(places[step], error[step], -1.0))
            return outcome, (step, *np.unravel_index(worst, error.shape[1:]))
    return "pass", np.unravel_index(np.argmax(error), error.shape)
