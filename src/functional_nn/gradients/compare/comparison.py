"""The comparison of one problem: full Jacobians from three sources in float64, then other types and transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.gradients.arbiter import ReferenceJacobian, reference_jacobian, reference_second_order, sensitivity
from functional_nn.gradients.compare.jacobians import (
    Derivatives,
    Pullbacks,
    as_rows,
    at_points,
    condensed,
    second_order,
    under_transforms,
    with_second,
)
from functional_nn.gradients.compare.problem import (
    IMPURE,
    Array,
    Function,
    Leaves,
    Problem,
    narrowest_type,
    with_stopped_as_constants,
)
from functional_nn.gradients.compare.report import Outcome, Verdict, judge, worst_outcome
from functional_nn.gradients.mutation.mutants import Mutants
from functional_nn.jaxprs.xla_options import quick_jit

TOLERANCES = {"float64": 1e-13, "float32": 1e-5, "float16": 0.05, "bfloat16": 0.2}
"""The largest error allowed, relative to the size of the terms: in float64 about 450 units in the last place."""
SECOND_ORDER_TOLERANCE = 1e-10
TRANSFORMS = ("jit", "vmap", "scan")
VISIBLE_CHANGE = 1e-6
"""If tracing changes a value by this share of its terms, this is more than rounding."""
BEYOND_ROUNDING = 1e4
"""A change of this many roundings is an error. If the comparison does not find it, it cannot be trusted."""

SMALLEST_NORMAL = {name: float(jnp.finfo(name).tiny) for name in ("float64", "float32", "bfloat16")}
"""The smallest positive normal number of the types in which XLA replaces smaller ones by 0."""
LARGE = np.pi * 2.0**10
"""The factor of the large drawn cotangents, and the divisor of the small one. A narrower type has to round it."""


class JacobianComparison:
    """Compares the formula of a problem with automatic differentiation and an arbiter; each method gives verdicts.

    Args:
        subject: the name in the verdicts.
        problem_in: ``problem_in(dtype)`` gives the problem in that type, always in the same structure.
        seed: for drawing the cotangents and directions.
        kinks_as_automatic: whether the formula has to give the values of ``jax.grad`` at kinks. Otherwise a kink is
            inconclusive.
        stop_gradient_as_constant: whether results of ``stop_gradient`` are constants for the arbiter.
    """

    def __init__(
        self,
        subject: str,
        problem_in: Callable[[str], Problem],
        *,
        seed: int = 0,
        kinks_as_automatic: bool = False,
        stop_gradient_as_constant: bool = False,
    ):
        self.subject = subject
        self._problem_in = problem_in
        self._kinks_as_automatic = kinks_as_automatic
        self._stop_gradient_as_constant = stop_gradient_as_constant
        with jax.enable_x64(True):
            self.problem = condensed(problem_in("float64"))
            self.y_bars, self.directions = self._drawn(seed)
            self._pullbacks = Pullbacks(self.problem)
            self._narrowest = narrowest_type(self.problem.function, self.problem.leaves)
        self._tolerance = TOLERANCES.get(self._narrowest, TOLERANCES["bfloat16"])
        self._formula_outcome: dict[str, Outcome] = dict.fromkeys(self.problem.names, "pass")
        self._automatic_is_right = dict.fromkeys(self.problem.names, True)
        self._at_kink = False

    def _drawn(self, seed: int) -> tuple[Leaves, Leaves]:
        """Draws a cotangent of the outputs and a direction of the leaves.

        Their numbers are multiples of 1/128. Nearly all are exact in every type; bfloat16 rounds those beyond ±2.
        """
        random = np.random.default_rng(seed)

        def draw(leaf: Array | jax.ShapeDtypeStruct) -> np.ndarray:
            return ((np.round(random.normal(size=leaf.shape) * 64) + 0.5) / 64).astype(leaf.dtype)

        outputs = jax.eval_shape(self.problem.function, self.problem.leaves)
        return [draw(leaf) for leaf in outputs], [draw(leaf) for leaf in self.problem.leaves]

    def check_purity(self) -> None:
        """Raises InputError if the formula gives other values when it is called than when JAX traces it."""
        with jax.enable_x64(True):
            leaves, y_bars = (list(map(jnp.asarray, arrays)) for arrays in (self.problem.leaves, self.y_bars))
            called = self.problem.pullback(leaves, y_bars)
            traced = self._pullbacks(leaves, y_bars)
        for name, one, other, scale in zip(self.problem.names, called, traced.hand, traced.scale, strict=True):
            one = np.asarray(one).reshape(1, -1)
            differs = _disagreement(one, other, usable_scale(scale, np.abs(other))) > VISIBLE_CHANGE + self._tolerance
            if np.any(differs | (np.isnan(one) != np.isnan(other))):
                given = "other values if JAX traces it than if it is called"
                raise InputError(f"hand_vjp: {name}", "a function of its arguments alone", given, IMPURE)

    def first_order(self, leaves: Leaves | None = None, *, regime: str = "normal") -> Iterator[Verdict]:
        """Compares every element of the Jacobian in float64, and products with drawn cotangents.

        Args:
            leaves: the point; by default the problem's own.
            regime: the name of this point in the verdicts.
        """
        with jax.enable_x64(True):
            leaves = self.problem.leaves if leaves is None else leaves
            found = self._pullbacks.jacobian(leaves, self.y_bars)
            # A formula that is not linear in the cotangent may be right for the cotangents of the basis only. So both
            # signs are tried too, a large and a small size, and numbers that a narrower type would round. Inside a
            # narrow type, these sizes might overflow or underflow.
            factors = (3, -3) if self.note else (LARGE, -LARGE, 1 / LARGE)
            cotangents = [[factor * bar for bar in self.y_bars] for factor in factors]
            drawn = self._pullbacks(leaves, *cotangents)
            # The arbiter computes the elements where the formula and automatic differentiation disagree most.
            doubts = [
                np.max(_disagreement(hand, automatic, scale), 0, initial=0)
                for hand, automatic, scale in zip(*found, strict=True)
            ]
            function = self._judged_function(leaves)
            reference = reference_jacobian(function, leaves, doubts, _zeros(found))
        if leaves is self.problem.leaves:
            self._at_kink = any(bool(kink.any()) for kink in reference.kink)
        for number, name in enumerate(self.problem.names):
            values, note = self._with_arbiter(found, reference, number)
            judged = partial(self._verdict, name, reference=reference.name, regime=regime, transform="jit", note=note)
            verdict = judged(values)
            self._formula_outcome[name] = worst_outcome([self._formula_outcome[name], verdict.outcome])
            self._automatic_is_right[name] &= verdict.automatic_outcome != "fail"
            yield verdict
            if not self.note:
                with jax.enable_x64(True):
                    relative = relative_values(function, leaves, number, reference, values)
                if relative is not None:
                    yield judged(relative, unit="relative", tolerance=ALLOWED)
            for row, y_bars in enumerate(cotangents):
                y_bar = np.concatenate([np.reshape(bar, -1) for bar in y_bars])
                rows = slice(row, row + 1)
                hand, automatic = (np.asarray(source[number][rows]) for source in (drawn.hand, drawn.automatic))
                yield judged(values.multiplied(y_bar, hand, automatic), transform="drawn")

    def _judged_function(self, leaves: Leaves) -> Function:
        """The function whose derivative the arbiter computes at a point."""
        if not self._stop_gradient_as_constant:
            return self.problem.function
        return with_stopped_as_constants(self.problem.function, leaves)

    def _with_arbiter(
        self, found: Derivatives, reference: ReferenceJacobian, number: int, *, everywhere: bool = False
    ) -> tuple[ComparedValues, str]:
        """Puts the arbiter's values of one leaf beside the others, and writes a note for the reader.

        In a large leaf the arbiter computes only some elements; the others get the value of automatic differentiation.
        Elements at kinks get it too if the formula has to give the values of ``jax.grad`` there. The note then says so.

        Args:
            found: the derivatives by the formula and by automatic differentiation.
            reference: the arbiter's derivatives.
            number: the index of the leaf.
            everywhere: whether all elements count as being at a kink. In second order they do if one of them is: the
                direction moves all elements together, so all second derivatives are infinite.
        """
        hand, automatic, scale = (np.asarray(leaves[number]) for leaves in found)
        values, error = automatic.copy(), np.zeros_like(automatic)
        columns = reference.columns[number]
        values[:, columns] = reference.values[number]
        error[:, columns] = reference.error[number]
        # If automatic differentiation is the only source, and not finite, the derivative is not known.
        error[~np.isfinite(values)] = np.inf
        note = self.note
        # Elsewhere an infinite error says that the arbiter knows nothing. That excuses no formula.
        at_kink = np.full(values.shape, everywhere)
        at_kink[:, columns] |= reference.kink[number]
        if self._kinks_as_automatic and at_kink.any():
            note += f"{at_kink.sum()} of {at_kink.size} at a kink, where automatic differentiation is declared right."
            values[at_kink], error[at_kink] = automatic[at_kink], 0
        underflow = SMALLEST_NORMAL["float64"]
        return ComparedValues(hand, automatic, values, error, scale, underflow), note

    @property
    def note(self) -> str:
        """A note for the reader if the function computes in a narrower type than float64; otherwise empty."""
        if self._narrowest == "float64":
            return ""
        return f"The function computes in {self._narrowest} inside, so more rounding is allowed. "

    def second_order(self, *, regime: str = "normal") -> Iterator[Verdict]:
        """Compares Hessian-vector products in float64: derivatives of the pulled-back cotangent along a direction.

        There are no verdicts if JAX has no second derivative of an operation.
        """
        with jax.enable_x64(True):
            program = quick_jit(partial(second_order, self.problem))
            try:
                derivatives = program(self.problem.leaves, self.y_bars, self.directions)
            except (TypeError, NotImplementedError) as error:
                if isinstance(error, TypeError) and "custom_vjp" not in str(error):
                    raise
                return
            found = as_rows(derivatives, self.problem.leaves, 1)
            doubts = [_disagreement(hand, automatic, scale)[0] for hand, automatic, scale in zip(*found, strict=True)]
            problem = self.problem._replace(function=self._judged_function(self.problem.leaves))
            reference = reference_second_order(problem, self.y_bars, self.directions, doubts, _zeros(found))
        for number, name in enumerate(self.problem.names):
            values, note = self._with_arbiter(found, reference, number, everywhere=self._at_kink)
            yield self._verdict(
                name,
                values,
                kind="second order",
                tolerance=max(SECOND_ORDER_TOLERANCE, self._tolerance if self.note else 0),
                reference=reference.name,
                transform="jit",
                regime=regime,
                note=note,
            )

    def in_type(
        self, dtype: str, *, regime: str = "normal", transforms: Sequence[str] = TRANSFORMS
    ) -> Iterator[Verdict]:
        """Compares a pulled-back cotangent in a type, under ``jit``, ``vmap`` and ``scan``, with float64.

        The reference is the formula in float64, at the same point. If ``first_order`` has found the formula wrong, the
        reference is automatic differentiation in float64. If both are right, their difference counts as the error of
        the reference.

        Under ``vmap`` and ``scan``, there is a second point with another cotangent. So a formula is found that mixes
        the points up, or that always uses the first one.
        """
        with jax.enable_x64(True):  # random bits are those of float64 in every type
            problem = condensed(self._problem_in(dtype))
            outputs = jax.eval_shape(problem.function, problem.leaves)
            y_bars = [np.asarray(bar).astype(y.dtype) for bar, y in zip(self.y_bars, outputs, strict=True)]
            points, bars_of_points = (list(map(with_second, leaves)) for leaves in (problem.leaves, y_bars))
            program = quick_jit(partial(under_transforms, problem, transforms))
            bars_by_transform, automatic, has_values = program(points, bars_of_points)
            in_float64 = at_points(self._pullbacks, points, bars_of_points)
        total = sum(float(np.abs(bars.astype(np.float64)).sum()) for bars in bars_of_points)
        underflow = SMALLEST_NORMAL.get(dtype, 0.0) * max(1.0, total)
        for transform, bars in bars_by_transform.items():
            for number, name in enumerate(self.problem.names):
                found, found_automatic = (
                    np.asarray(leaves[number]).astype(np.float64).reshape(len(leaves[number]), -1)
                    for leaves in (bars, automatic)
                )
                hand, other, scale = (np.asarray(leaves[number]) for leaves in in_float64)
                right, error = self._right_in_float64(name, hand, other, scale)
                rows = slice(len(found))
                values = ComparedValues(found, found_automatic[rows], right[rows], error[rows], scale[rows], underflow)
                # The second point may lie where the function has no value or no derivative. There it does not count.
                has_derivative = np.isfinite(right[rows]) & np.asarray(has_values)[rows, None]
                counted = has_derivative | (np.arange(len(found)) == 0)[:, None]
                values = replace(values, arbiter=np.where(counted, right[rows], 0.0)).only_at(counted, scale[rows])
                yield self._verdict(name, values, dtype=dtype, transform=transform, regime=regime, reference="float64")

    def _right_in_float64(
        self, name: str, hand: np.ndarray, automatic: np.ndarray, scale: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of two derivatives in float64 is right, and its error. The first row is the problem's own point.

        Args:
            name: the name of the leaf.
            hand, automatic: the derivatives by the formula and by automatic differentiation, (points, elements).
            scale: the scale of errors.
        """
        if self._formula_outcome[name] == "fail":
            return automatic, np.zeros_like(automatic)
        if not self._automatic_is_right[name]:
            return hand, np.zeros_like(hand)
        difference = np.abs(hand - automatic)
        differs = ~(difference <= self._tolerance * scale)  # also where one of them is NaN
        # If the arbiter could not judge, it is not known which of two different values is right.
        if self._formula_outcome[name] == "inconclusive":
            return hand, np.where(differs, np.inf, difference)
        # The arbiter judged at the first point only. At the second one, automatic differentiation is taken to be right.
        differs[:1] = False
        return np.where(differs, automatic, hand), np.where(differs, 0.0, difference)

    def found(self, mutants: Mutants, arguments: Sequence[PyTree], leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        """Finds out which mutants the comparison rejects at a point, and which change more than rounding could.

        Args:
            mutants: the mutants of the formula.
            arguments: the mutants' arguments at this point; the cotangents of the outputs come last.
            leaves: the point.

        Returns:
            Two arrays of booleans, one element for each mutant. Only elements where the formula itself is right count:
            where it has a kink or no value, every mutant would be rejected.
        """
        with jax.enable_x64(True):
            bars, formula = map(jax.tree.leaves, mutants.evaluate_beside_formula(*arguments))
            right = self._pullbacks(leaves, arguments[-1])
        found, changed = np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)
        rounding = BEYOND_ROUNDING * float(jnp.finfo(self._narrowest).eps)
        for name, rows, unchanged, *values in zip(self.problem.names, bars, formula, *right, strict=True):
            rows, unchanged = np.asarray(rows).reshape(len(mutants), -1), np.asarray(unchanged).reshape(-1)
            hand, automatic, scale = (np.asarray(value).reshape(-1) for value in values)
            truth = automatic if self._automatic_is_right[name] else hand
            scale = usable_scale(scale, np.abs(truth))
            is_right = _disagreement(unchanged, truth, scale) <= self._tolerance
            found |= np.any(~(_disagreement(rows, truth, scale) <= self._tolerance) & is_right, 1)  # NaN counts, too
            changed |= np.any(~(_disagreement(rows, unchanged, scale) <= rounding) & is_right, 1)
        return found, changed

    def _verdict(self, leaf: str, values: ComparedValues, **known: object) -> Verdict:
        """The verdict at the worst element of the formula.

        Args:
            leaf: the name of the leaf.
            values: the values by its elements.
            known: the fields of the verdict that are already known, such as its kind and its dtype.
        """
        dtype = str(known.get("dtype", "float64"))
        tolerance = max(TOLERANCES[dtype], self._tolerance)
        template = replace(Verdict(self.subject, leaf, "pass", 0.0, tolerance), **known)
        verdict, at = values.with_usable_scale().verdict(template)
        return replace(verdict, index=self._index(leaf, at)) if at else verdict

    def _index(self, leaf: str, at: tuple[int, ...]) -> tuple[int, ...]:
        """The index in the leaf of a column of its Jacobian."""
        shape = np.shape(self.problem.leaves[self.problem.names.index(leaf)])
        return tuple(map(int, np.unravel_index(at[-1], shape)))


def _disagreement(found: Array, other: Array, scale: Array) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return relative_error(found - other, scale)


def _zeros(found: Derivatives) -> list[np.ndarray]:
    """Which derivatives are 0 by the formula and by automatic differentiation, and so is their scale."""
    return [np.all([np.asarray(array) == 0 for array in of_leaf], 0) for of_leaf in zip(*found, strict=True)]


@dataclass(frozen=True)
class ComparedValues:
    """Values of one derivative from three sources, as arrays of one shape.

    Args:
        hand: the values of the hand-derived formula.
        automatic: the values of automatic differentiation.
        arbiter: the values of the arbiter.
        arbiter_error: the arbiter's estimate of its own absolute error; infinite at a kink.
        scale: the size by which errors are divided.
        underflow: the absolute error that is always allowed: the smallest positive normal number, or a multiple of it
            in sums. XLA replaces smaller numbers by 0, so no formula can give them.
    """

    hand: np.ndarray
    automatic: np.ndarray
    arbiter: np.ndarray
    arbiter_error: np.ndarray
    scale: np.ndarray
    underflow: float

    def multiplied(self, y_bar: np.ndarray, hand: np.ndarray, automatic: np.ndarray) -> ComparedValues:
        """The same values of a cotangent times these Jacobians; those by the formula and by ``jax.vjp`` are given."""
        weights, size = y_bar[None], np.abs(y_bar)[None]
        underflow = self.underflow * max(1.0, float(size.sum()))
        arbiter, error, scale = weights @ self.arbiter, size @ self.arbiter_error, size @ self.scale
        return ComparedValues(hand, automatic, arbiter, error, scale, underflow)

    def with_usable_scale(self) -> ComparedValues:
        """Replaces the scale by the size of the derivative where the scale is not finite, or smaller than that.

        The scale comes from automatic differentiation. It is infinite where a term overflows, and NaN where
        automatic differentiation gives NaN. Divided by infinity, every error would be 0. The scale is never smaller
        than the automatic derivative. So if it is smaller than the derivative, automatic differentiation has missed a
        term.
        """
        size = np.abs(self.arbiter)
        return replace(self, scale=usable_scale(self.scale, size, self.arbiter_error < size))

    def only_at(self, counted: np.ndarray, scale: np.ndarray) -> ComparedValues:
        """Replaces the scale. Only the chosen elements are compared; all others get an error of 0."""
        return ComparedValues(
            np.where(counted, self.hand, self.arbiter),
            np.where(counted, self.automatic, self.arbiter),
            self.arbiter,
            np.where(counted, self.arbiter_error, 0.0),
            np.where(counted, scale, 1.0),
            self.underflow,
        )

    @np.errstate(invalid="ignore")
    def verdict(self, template: Verdict) -> tuple[Verdict, tuple[int, ...]]:
        """The verdict at the worst element of the formula, and the index of that element.

        Certain failures come before doubtful ones.

        Args:
            template: a verdict with the fields that are already known, such as the subject, the leaf and the tolerance.
        """
        hand_error, automatic_error = (
            self._relative(np.where(found == self.arbiter, 0.0, found - self.arbiter))  # also where both are infinite
            for found in (self.hand, self.automatic)
        )
        arbiter_error = self._relative(self.arbiter_error)
        if not hand_error.size:
            return replace(template, note="It has no elements."), ()
        is_unknown = np.isnan(self.arbiter)
        hand_error, arbiter_error = (np.where(is_unknown, np.inf, errors) for errors in (hand_error, arbiter_error))
        # An element that the arbiter does not know says nothing about automatic differentiation.
        known_errors = np.where(np.isfinite(arbiter_error), np.nan_to_num(automatic_error, nan=np.inf), 0.0)
        # The true error lies between these two. NaN counts as an infinite error. At a kink, nothing is certain.
        least = np.where(np.isinf(arbiter_error), -np.inf, hand_error - arbiter_error)
        least = np.where(np.isnan(hand_error), np.inf, least)
        most = np.nan_to_num(hand_error + arbiter_error, nan=np.inf)
        at = np.unravel_index(np.argmax(least if np.max(least) > template.tolerance else most), hand_error.shape)
        verdict = replace(
            template,
            outcome=judge(float(hand_error[at]), float(arbiter_error[at]), template.tolerance),
            error=float(hand_error[at]),
            automatic_error=float(np.max(known_errors)),
            reference_error=float(arbiter_error[at]),
            hand=float(self.hand[at]),
            automatic=float(self.automatic[at]),
            arbiter=float(self.arbiter[at]),
        )
        return verdict, tuple(map(int, at))

    def _relative(self, difference: np.ndarray) -> np.ndarray:
        """Differences in units of the scale; 0 for those that are no larger than an underflow."""
        is_underflow = np.abs(difference) <= self.underflow
        return np.where(is_underflow, 0.0, relative_error(difference, self.scale, self.arbiter_error))


def usable_scale(scale: Array, size: Array, is_known: bool | np.ndarray = True) -> np.ndarray:
    """Where ``is_known``, the larger of scale and size. Where the scale is not finite, the size."""
    return np.where(np.isfinite(scale), np.where(is_known, np.fmax(scale, size), scale), size)


def relative_error(difference: Array, scale: Array, arbiter_error: Array | float = 0.0) -> np.ndarray:
    """|difference| / scale. If the scale is 0, the result is infinite, or 0 within the arbiter's error."""
    with np.errstate(all="ignore"):
        difference = np.abs(difference)
        relative = difference / scale
    within_arbiter_error = np.isfinite(arbiter_error) & (difference <= arbiter_error)
    is_zero = (difference == 0) | ((scale == 0) & within_arbiter_error)
    return np.where(is_zero, 0.0, relative)


ALLOWED = 2.0**-26
"""The relative error allowed in float64: half of the digits."""
SHARE_OF_SENSITIVITY = 2.0**-20
"""The factor of the sensitivity in the unit of the error. So 64 roundings of each input are allowed."""


def relative_values(
    function: Function,
    leaves: Leaves,
    number: int,
    reference: ReferenceJacobian,
    values: ComparedValues,
) -> ComparedValues | None:
    """The values with the size of the derivative as their scale. Only elements that need this measure count.

    An element needs this measure if the usual one allows a larger relative error than ``ALLOWED``. It must be a normal
    number that the arbiter knows. Returns None if there is no such element.

    Args:
        function: the function that is differentiated.
        leaves: the point.
        number: the index of the leaf.
        reference: the arbiter's derivatives.
        values: the values with the usual scale.
    """
    size = np.abs(values.arbiter)
    is_known = np.zeros(size.shape, bool)
    is_known[:, reference.columns[number]] = True
    with np.errstate(invalid="ignore"):
        is_known &= (size >= SMALLEST_NORMAL["float64"]) & (values.arbiter_error <= ALLOWED * size)
        # The comparisons are negated, so that a scale or an error of NaN counts too.
        counted = is_known & ~(TOLERANCES["float64"] * values.scale <= ALLOWED * size)
    if not counted.any():
        return None
    scale = size.copy()
    with np.errstate(invalid="ignore"):
        errors = [np.abs(found - values.arbiter) for found in (values.hand, values.automatic)]
        is_wrong = counted & ~((errors[0] <= ALLOWED * size) & (errors[1] <= ALLOWED * size))
    # The condition of the derivative matters only if an error is too large. Computing it takes as long as computing the
    # derivative itself.
    columns = np.flatnonzero(is_wrong.any(0))
    if len(columns):
        scale[:, columns] += SHARE_OF_SENSITIVITY * sensitivity(function, leaves, number, columns)
    return values.only_at(counted & np.isfinite(scale), scale)
