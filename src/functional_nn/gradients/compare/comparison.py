"""The comparison of one problem: full Jacobians of three parties in float64, then other types and transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from functional_nn.gradients.compare.jacobians import (
    Parties,
    condensed,
    in_ways,
    jacobians,
    pulled,
    pushed,
    second_order,
)
from functional_nn.gradients.compare.problem import Leaves, Problem
from functional_nn.gradients.compare.report import Verdict, judge
from functional_nn.gradients.mutation.mutants import Mutants
from functional_nn.gradients.references.arbiter import Opinion, arbitrate, arbitrate_along
from functional_nn.jaxprs.xla_options import quick_jit

TOLERANCES = {"float64": 1e-13, "float32": 1e-5, "float16": 0.05, "bfloat16": 0.2}
"""What an error may be as a share of the sum of absolute terms: in float64 some 450 units in the last place."""
SECOND_ORDER_TOLERANCE = 1e-10
TRANSFORMS = ("jit", "vmap", "scan")
SAME = 1e-14
"""As a share of a value: what compiling the same formula twice may change."""
NOTHING = 1e-25
"""What 50 digits leave of a derivative that is 0."""


class Comparison:
    """Compares the formula of a problem with its other derivatives; each of the methods gives verdicts.

    Args:
        subject: the name in the verdicts.
        problem_in: ``problem_in(dtype)`` gives the problem in that type; the same structure in all of them.
        seed: of the cotangents and directions that are drawn.
        kinks_as_automatic: whether the formula's values at kinks are declared to be those of ``jax.grad``. Otherwise
            a kink is inconclusive.
        exact: whether the arbiter computes in 50 digits, where it can.
        tolerances: what an error may be in each type.
    """

    def __init__(
        self,
        subject: str,
        problem_in: Callable[[str], Problem],
        *,
        seed: int = 0,
        kinks_as_automatic: bool = False,
        exact: bool = True,
        tolerances: dict[str, float] | None = None,
    ):
        self.subject, self._problem_in, self._exact = subject, problem_in, exact
        self._kinks_as_automatic = kinks_as_automatic
        self._tolerances = TOLERANCES | (tolerances or {})
        with jax.enable_x64(True):
            self.problem = condensed(problem_in("float64"))
            self.y_bars, self.directions = self._drawn(seed)
            self._jacobians = quick_jit(partial(jacobians, self.problem))
            self._pushed = quick_jit(partial(pushed, self.problem))
            self._pulled = quick_jit(partial(pulled, self.problem))
        self._formula_is_right = dict.fromkeys(self.problem.names, True)
        self._automatic_is_right = dict.fromkeys(self.problem.names, True)
        self._at_kink = False

    def _drawn(self, seed: int) -> tuple[Leaves, Leaves]:
        """A cotangent of the outputs and a direction for the leaves, exact in all types."""
        random = np.random.default_rng(seed)
        draw = lambda leaf: (np.round(random.normal(size=np.shape(leaf)) * 64) + 0.5) / 64  # noqa: E731
        outputs = jax.eval_shape(self.problem.function, self.problem.leaves)
        return [draw(leaf) for leaf in outputs], [draw(leaf) for leaf in self.problem.leaves]

    def first_order(
        self, leaves: Leaves | None = None, *, regime: str = "normal", jvp: bool = True
    ) -> Iterator[Verdict]:
        """In float64 every element of the Jacobian, and the product with a direction that ``jax.jvp`` gives."""
        with jax.enable_x64(True):
            leaves = self.problem.leaves if leaves is None else leaves
            parties = self._jacobians(leaves)
            forward = self._pushed(leaves, self.directions) if jvp else None
            parties = Parties(*(_rows(party, leaves) for party in parties))
            doubts = [np.max(_share(h - a, t), 0, initial=0) for h, a, t in zip(*parties, strict=True)]
            opinion = arbitrate(self.problem.function, leaves, doubts, exact=self._exact)
        if leaves is self.problem.leaves:
            self._at_kink = any(bool(np.isinf(error).any()) for error in opinion.error)
        for number, name in enumerate(self.problem.names):
            hand, automatic, terms = (party[number] for party in parties)
            arbiter, error, note = self._with_automatic(opinion, number, automatic)
            arguments: dict[str, Any] = {
                "reference": opinion.name,
                "regime": regime,
                "transform": "jit",
                "note": note,
            }
            verdict = self._verdict(name, hand, automatic, arbiter, error, terms, **arguments)
            self._formula_is_right[name] &= verdict.outcome == "pass"
            self._automatic_is_right[name] &= verdict.automatic_outcome != "fail"
            yield verdict
            if forward is None:
                continue
            u = self.directions[number].reshape(-1)
            pushed = np.asarray(forward[number], np.float64).reshape(-1)
            values = (hand @ u, pushed, arbiter @ u, error @ np.abs(u), terms @ np.abs(u))
            yield self._verdict(name, *values, kind="jvp", **arguments)

    def _with_automatic(
        self, opinion: Opinion, number: int, automatic: np.ndarray, *, everywhere: bool = False
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """The arbiter's values and errors, with those of automatic differentiation where it was not asked.

        So it is, and the note says so, where values at kinks are declared to be automatic differentiation's:
        ``everywhere``, where a direction leads through a kink of one element, which makes second derivatives of all
        others infinite.
        """
        values, error = automatic.copy(), np.zeros_like(automatic)
        columns = opinion.columns[number]
        values[:, columns], error[:, columns] = opinion.values[number], opinion.error[number]
        note = ""
        if self._kinks_as_automatic and (declared := np.isinf(error) | everywhere).any():
            note = f"{declared.sum()} of {declared.size} at a kink, where automatic differentiation is declared right."
            values[declared], error[declared] = automatic[declared], 0
        return values, error, note

    def second_order(self, *, regime: str = "normal") -> Iterator[Verdict]:
        """In float64 the derivative of the pulled-back cotangent along a direction: Hessian-vector products."""
        with jax.enable_x64(True):
            program = quick_jit(partial(second_order, self.problem))
            parties = program(self.problem.leaves, self.y_bars, self.directions)
            parties = Parties(*(_rows(party, self.problem.leaves) for party in parties))
            doubts = [_share(h - a, t)[0] for h, a, t in zip(*parties, strict=True)]
            opinion = arbitrate_along(self.problem, self.y_bars, self.directions, doubts, exact=self._exact)
        for number, name in enumerate(self.problem.names):
            hand, automatic, terms = (party[number] for party in parties)
            arbiter, error, note = self._with_automatic(opinion, number, automatic, everywhere=self._at_kink)
            known: dict[str, Any] = {
                "reference": opinion.name,
                "kind": "second order",
                "transform": "jit",
                "regime": regime,
                "note": note,
            }
            values = (hand, automatic, arbiter, error, terms)
            yield self._verdict(name, *values, tolerance=SECOND_ORDER_TOLERANCE, **known)

    def in_type(
        self, dtype: str, *, regime: str = "normal", transforms: Sequence[str] = TRANSFORMS
    ) -> Iterator[Verdict]:
        """A pulled-back cotangent in a type, under ``jit``, ``vmap`` and ``scan``, against float64 at the same point.

        The truth in float64 is what the formula gives, if ``first_order`` has not found it wrong, else automatic
        differentiation. Where it passed, their difference counts as the reference's own error.
        """
        with jax.enable_x64(True):  # in any type random bits are those of float64
            problem = condensed(self._problem_in(dtype))
            outputs = jax.eval_shape(problem.function, problem.leaves)
            y_bars = [np.asarray(bar).astype(y.dtype) for bar, y in zip(self.y_bars, outputs, strict=True)]
            ways, automatic = quick_jit(partial(in_ways, problem, transforms))(problem.leaves, y_bars)
            given = [np.asarray(leaf).astype(np.float64) for leaf in (*problem.leaves, *y_bars)]
            truth = self._pulled(given[: len(problem.leaves)], given[len(problem.leaves) :])
        for transform, bars in ways.items():
            for number, name in enumerate(self.problem.names):
                ours, other, terms, found, theirs = (
                    np.asarray(party[number]).astype(np.float64).reshape(-1) for party in (*truth, bars, automatic)
                )
                right = self._formula_is_right[name]
                both = right and self._automatic_is_right[name]
                exact, error = ours if right else other, np.abs(ours - other) if both else np.zeros_like(other)
                exact, error, terms, found, theirs = (part[None] for part in (exact, error, terms, found, theirs))
                known: dict[str, Any] = {
                    "dtype": dtype,
                    "transform": transform,
                    "regime": regime,
                    "reference": "float64",
                }
                yield self._verdict(name, found, theirs, exact, error, terms, **known)

    def killed(self, mutants: Mutants, arguments: Sequence[Any], leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        """Which mutants give anything else than the truth at a point, and which differ from the formula at all.

        Args:
            mutants: of the formula.
            arguments: what they are called with there, the outputs' cotangents last.
            leaves: the point.
        """
        with jax.enable_x64(True):
            bars = jax.tree.leaves(mutants.evaluate(*arguments))
            truth = Parties(*self._pulled(leaves, arguments[-1]))
        dead, changed = np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)
        for name, found, hand, automatic, terms in zip(self.problem.names, bars, *truth, strict=True):
            rows = np.asarray(found).reshape(len(mutants), -1)
            ours, theirs, unit = (np.asarray(party).reshape(-1) for party in (hand, automatic, terms))
            right = theirs if self._automatic_is_right[name] else ours
            dead |= ~(np.max(_share(rows - right, unit), 1, initial=0) <= self._tolerances["float64"])
            changed |= ~np.all(np.abs(rows - ours) <= SAME * np.abs(ours), 1)
        return dead, changed

    def _verdict(
        self,
        leaf: str,
        hand: np.ndarray,
        automatic: np.ndarray,
        arbiter: np.ndarray,
        error: np.ndarray,
        terms: np.ndarray,
        *,
        tolerance: float | None = None,
        dtype: str = "float64",
        **known: Any,
    ) -> Verdict:
        """The verdict on the element where the formula is worst: a failure before what cannot be told before a pass."""
        tolerance = self._tolerances[dtype] if tolerance is None else tolerance
        ours, its = _share(hand - arbiter, terms), _share(error, terms)
        theirs = _share(automatic - arbiter, terms)
        if not ours.size:
            known["note"] = "It has no elements."
            return Verdict(self.subject, leaf, "pass", 0.0, tolerance, dtype=dtype, **known)
        with np.errstate(invalid="ignore"):
            certain = np.where(np.isinf(its), -np.inf, ours - its)
        certain = np.where(np.isnan(ours), np.inf, certain)
        doubtful = np.nan_to_num(ours + its, nan=np.inf)
        at = np.unravel_index(np.argmax(certain if np.max(certain) > tolerance else doubtful), ours.shape)
        return Verdict(
            self.subject,
            leaf,
            judge(float(ours[at]), float(its[at]), tolerance),
            float(ours[at]),
            tolerance,
            dtype=dtype,
            automatic_error=float(np.max(np.nan_to_num(theirs, nan=np.inf))),
            reference_error=float(its[at]),
            index=self._index(leaf, at),
            hand=float(hand[at]),
            automatic=float(automatic[at]),
            arbiter=float(arbiter[at]),
            **known,
        )

    def _index(self, leaf: str, at: Sequence[Any]) -> tuple[int, ...]:
        """The place in the leaf of a column of its Jacobian; of a product with a direction the output's number."""
        shape = np.shape(self.problem.leaves[self.problem.names.index(leaf)])
        return tuple(map(int, np.unravel_index(at[-1], shape) if len(at) > 1 else at))


def _rows(arrays: Leaves, leaves: Leaves) -> list[np.ndarray]:
    wide = zip((np.asarray(array, np.float64) for array in arrays), leaves, strict=True)
    return [array.reshape(-1 if np.size(leaf) else len(array), np.size(leaf)) for array, leaf in wide]


def _share(difference: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """|difference| / terms; of what has no terms infinite, but for a difference of many digits' own rounding."""
    with np.errstate(all="ignore"):
        share = np.abs(difference) / terms
    return np.where((difference == 0) | ((terms == 0) & (np.abs(difference) < NOTHING)), 0.0, share)
