"""The comparison of one problem: full Jacobians from three sources in float64, then other types and transforms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.gradients import arbiter
from functional_nn.gradients.compare import compared_values, jacobians, problem
from functional_nn.gradients.compare.compared_values import HALF_OF_DIGITS, ComparedValues, relative_error, usable_scale
from functional_nn.gradients.compare.error_scale import TOLERANCES, narrow_types, with_rounding
from functional_nn.gradients.compare.jacobians import Derivatives, Pullbacks
from functional_nn.gradients.compare.points import branch_constants, further_points
from functional_nn.gradients.compare.problem import Array, Function, Leaves, Problem
from functional_nn.gradients.compare.report import Outcome, Verdict, has_failed, worst_outcome
from functional_nn.gradients.mutation.mutants import Mutants
from functional_nn.jaxprs.walk import all_equations
from functional_nn.jaxprs.xla_options import quick_jit

SECOND_ORDER_TOLERANCE = 1e-10
TRANSFORMS = ("jit", "vmap", "scan")
VISIBLE_CHANGE = 1e-6
"""If tracing changes a value by this share of its terms, this is more than rounding."""
BEYOND_ROUNDING = 1e-12
"""A change of this share of the terms is an error. If the comparison does not find it, it cannot be trusted."""

UNDERFLOW = {name: 16 * float(jnp.finfo(name).tiny) for name in ("float64", "float32", "bfloat16")}
"""Errors of this size do not count: XLA replaces numbers below the smallest normal one by 0, also between two steps."""
LARGE = np.pi * 2.0**10
"""The factor of the large drawn cotangents, and the divisor of the small one. A narrower type has to round it."""
FARTHEST, FARTHEST_IF_NARROW = 1e100, 1e8
"""The drawn cotangents are larger and smaller than the constants of a formula, up to this size. The second one is for a
function that rounds to a type narrower than float64."""
ROUNDED_UNITS = 4
"""In a narrow type, an error may be as large as the effect of this many units in the last place of all values."""
HALF = HALF_OF_DIGITS["float64"]
"""The relative error allowed at further points."""
MOST_JUDGED = 6
"""The arbiter judges at most this many differentiable further points where all derivatives are finite, and at most this
many others."""
MOST_ELSEWHERE = 20
"""At a further point, the arbiter computes the derivatives by at most this many elements of a leaf."""
MOST_CALLS = 16
"""The arbiter is asked about at most this many further points, including those without a derivative."""

NUMBERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda x: x,
    ", other signs": lambda x: -x,
    ", small numbers": lambda x: x / 64,
    ", another order": lambda x: np.random.default_rng(x.size).permutation(x.reshape(-1)).reshape(x.shape),
    ", one large number": lambda x: _with_outlier(x, 16),
    ", one large negative number": lambda x: _with_outlier(x, -16),
}
"""The numbers at other lengths of axes, made from those that are given, by the end of their name."""
MISLEADING = re.compile("select_n|cond|stop_gradient|custom_")
"""Operations whose derivative by JAX may not be that of the function."""
DIFFERENCE_STEPS = np.array([0, *(sign * 2.0**power for power in (-14, -18) for sign in (1, -1))])
"""The steps, relative to each number, at which a derivative is compared with differences in float64."""
NEARBY = 1e-2
"""Second derivatives are compared at points that differ by this from the further points."""
ALONE = "The function reads the type of its arguments. So the formula was judged in this type alone."
UNLIKE = 1e-3
"""How far the two have to differ, relative to the terms, until the arbiter is asked."""

LINEAR = "This is the derivative of the formula by y_bar. It has to be the formula with another y_bar."
DOMAIN = "If the formula is not meant for this point, give check_vjp a domain."
MOST_SHOWN_NUMBERS = 12
"""A report shows at most this many numbers of each leaf of a further point, and only the outer ones of more."""


class FurtherPoint(NamedTuple):
    """Another point than the problem's own one, and the derivatives there.

    Args:
        leaves: the point.
        y_bars: the cotangent that is pulled back.
        found: the bars by the formula and by automatic differentiation, of each leaf.
    """

    leaves: Leaves
    y_bars: Leaves
    found: list[Derivatives]

    @property
    def is_finite(self) -> bool:
        """Whether all bars are finite."""
        return all(bool(np.isfinite([leaf.hand, leaf.automatic]).all()) for leaf in self.found)

    @property
    def disagreement(self) -> float:
        """The largest of the disagreements."""
        return max(self.disagreements)

    @property
    def disagreements(self) -> list[float]:
        """The largest difference of the two for each leaf, in units of the scale. NaN counts as infinite."""
        largest = (
            np.max(_disagreement(hand, automatic, usable_scale(scale, np.abs(automatic)) + narrow / HALF), initial=0)
            for hand, automatic, scale, narrow in self.found
        )
        return [float(np.nan_to_num(error, nan=np.inf)) for error in largest]

    def with_rounding(self, size: Leaves) -> FurtherPoint:
        """The point with a larger scale of errors: how far rounding inside of the formula can move each bar."""
        pairs = zip(self.found, size, strict=True)
        return self._replace(found=[leaf._replace(scale=leaf.scale + np.reshape(own, (1, -1))) for leaf, own in pairs])


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

    any_slope_at_kinks = False
    """Whether any value between the one-sided derivatives is right at a kink. Otherwise it is inconclusive."""

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
            self.problem = jacobians.condensed(problem_in("float64"))
            outputs, random = jax.eval_shape(self.problem.function, self.problem.leaves), np.random.default_rng(seed)
            # Nearly all of these multiples of 1/128 are exact in every type; bfloat16 rounds those beyond ±2.
            self.y_bars, self.directions, self.y_directions = (
                [((np.round(random.normal(size=x.shape) * 64) + 0.5) / 64).astype(x.dtype) for x in leaves]
                for leaves in (outputs, self.problem.leaves, outputs)
            )
            self._pullbacks = Pullbacks(self.problem)
            self.program = jax.make_jaxpr(self.problem.function)(self.problem.leaves)
            self._narrow_types = narrow_types(self.program)
        self._formula_outcome: dict[str, Outcome] = dict.fromkeys(self.problem.names, "pass")
        self._automatic_is_right = dict.fromkeys(self.problem.names, True)

    @np.errstate(invalid="ignore")
    def check_purity(self) -> None:
        """Raises InputError if the formula gives other values when it is called than when JAX traces it."""
        with jax.enable_x64(True):
            leaves, y_bars = (list(map(jnp.asarray, arrays)) for arrays in (self.problem.leaves, self.y_bars))
            called = self.problem.pullback(leaves, y_bars)
            traced = self._pullbacks(leaves, y_bars)
        for name, one, (other, _, scale, narrow) in zip(self.problem.names, called, traced, strict=True):
            one = np.asarray(one).reshape(1, -1)
            allowed = VISIBLE_CHANGE * usable_scale(scale, np.abs(other)) + narrow
            differs = np.abs(one - other) > allowed
            if np.any(differs | (np.isnan(one) != np.isnan(other))):
                given = "other values if JAX traces it than if it is called"
                raise InputError(f"hand_vjp: {name}", "a function of its arguments alone", given, problem.IMPURE)

    def first_order(self, leaves: Leaves | None = None, *, regime: str = "normal") -> Iterator[Verdict]:
        """Compares every element of the Jacobian in float64, and products with drawn cotangents.

        Args:
            leaves: the point; by default the problem's own. At another one, it does not count if small derivatives lose
                digits.
            regime: the name of this point in the verdicts.
        """
        with jax.enable_x64(True):
            leaves = self.problem.leaves if leaves is None else leaves
            found = self._pullbacks.jacobian(leaves, self.y_bars)
            # A formula that is not linear in the cotangent may be right for the cotangents of the basis only. So both
            # signs are tried too, a large and a small size, and numbers that a narrower type would round. The formula
            # may compare them with one of its constants. Inside the function, float16 might overflow with these sizes.
            far = FARTHEST_IF_NARROW if self._narrow_types else FARTHEST
            near = [constant for constants in self._constants for constant in constants if 1 / far < constant < far]
            large, small = max([LARGE, *(64 * c for c in near)]), min([1 / LARGE, *(c / 64 for c in near)])
            factors = (3, -3) if "float16" in self._narrow_types else (large, -large, small)
            cotangents = [[(factor * bar).astype(bar.dtype) for bar in self.y_bars] for factor in factors]
            drawn = self._pullbacks(leaves, *cotangents)
            function = self._judged_function(leaves)
            reference = arbiter.reference_jacobian(function, leaves, _doubtful(found))
        for number, (name, right) in enumerate(zip(self.problem.names, reference, strict=True)):
            values, note = self._with_arbiter(found[number], right)
            judged = partial(self._verdict, name, reference=right.name, regime=regime, transform="jit", note=note)
            verdict = judged(values)
            self._formula_outcome[name] = worst_outcome([self._formula_outcome[name], verdict.outcome])
            self._automatic_is_right[name] &= verdict.automatic_outcome != "fail"
            yield verdict
            if leaves is self.problem.leaves:
                with jax.enable_x64(True):
                    condition = partial(arbiter.sensitivity, function, leaves, number, values.arbiter)
                    relative = compared_values.relative_values(values, right.columns, condition)
                if relative is not None:
                    yield judged(relative, unit="relative", tolerance=HALF_OF_DIGITS["float64"])
            for row, y_bars in enumerate(cotangents):
                y_bar = np.concatenate([np.reshape(bar, -1).astype(np.float64) for bar in y_bars])
                hand, automatic = (np.asarray(bars)[[row]] for bars in drawn[number][:2])
                yield judged(values.multiplied(y_bar, hand, automatic), transform="drawn")

    @cached_property
    def _constants(self) -> tuple[list[float], list[float]]:
        """The constants at which the function or the formula may change its branch.

        Then those that the formula divides: it may compare 1 with c / |y_bar|.
        """
        with jax.enable_x64(True):
            pullback = jax.make_jaxpr(self.problem.pullback)(self.problem.leaves, self.y_bars)
        both = [*branch_constants(self.program), *branch_constants(pullback)]
        return list(dict.fromkeys(both)), branch_constants(pullback, ("div",))

    @cached_property
    def further_points(self) -> list[FurtherPoint]:
        """The drawn points at which the formula is judged, and at which errors are planted."""
        with jax.enable_x64(True):
            points = further_points(self.problem, self.y_bars, self._constants[0])
            return [FurtherPoint(*point, self._pullbacks(*point)) for point in points]

    def at_further_points(self) -> Iterator[Verdict]:
        """Compares a pulled-back cotangent with automatic differentiation at further points.

        Where the two differ, the arbiter decides. Points where the function or its derivative does not exist do not
        count. Nobody has chosen these points, so only half of the digits have to be right. The formula may also lose
        digits by rounding in its own operations.
        """
        wrong, right = self._wrong_at(self.further_points)
        for point in [] if wrong else self._unlike_differences(right):
            with jax.enable_x64(True):
                wrong = wrong or self._by_arbiter(point)[0]
        self._formula_outcome |= {verdict.leaf: verdict.outcome for verdict in wrong}
        self.further_points = right  # errors are planted only where the formula was judged
        yield from wrong or self._agreeing(right, f"{len(right)} further points")

    def _wrong_at(self, points: Sequence[FurtherPoint], regime: str = "") -> tuple[list[Verdict], list[FurtherPoint]]:
        """What is wrong at the first point where something is, and the points before at which the formula was judged.

        Args:
            points: the points.
            regime: their name in the verdicts; by default the numbers of each.
        """
        function = quick_jit(self.problem.function)
        own_rounding = self._own_rounding(self.problem.pullback)
        judged, calls, right = {True: 0, False: 0}, 0, []
        given = [np.asarray(leaf) for leaf in self.problem.leaves]

        def is_other(point: FurtherPoint) -> bool:
            """Whether more than one number is another than the caller gave. There are few such points."""
            pairs = zip(point.leaves, given, strict=True)
            return sum(int(np.count_nonzero(np.asarray(leaf) != own)) for leaf, own in pairs) > 1

        for point in sorted(points, key=lambda point: (is_other(point), -point.disagreement)):
            if not point.disagreement <= HALF:
                with jax.enable_x64(True):
                    exists = all(np.isfinite(np.asarray(y)).all() for y in function(point.leaves))
                    if calls == MOST_CALLS or judged[point.is_finite] == MOST_JUDGED or not exists:
                        continue
                    point = point._replace(found=self._pullbacks(point.leaves, point.y_bars))
                    point = point.with_rounding(own_rounding(point.leaves, point.y_bars))
                    if not point.disagreement <= HALF:
                        calls += 1
                        wrong, is_smooth = self._by_arbiter(point, regime)
                        if wrong:
                            return wrong, right
                        if not is_smooth:
                            continue
                        judged[point.is_finite] += 1
            right.append(point)
        return [], right

    def _own_rounding(self, by_hand: Callable[..., Leaves]) -> Callable[..., Leaves]:
        """How far rounding inside of the formula can move its results, as a scale of errors at further points.

        If the function rounds to a narrow type, the formula may do so, too. Automatic differentiation shows less of it
        where its own derivative is 0 in that type, as 1 - tanh² is in the tails.
        """

        def size(*arguments: PyTree) -> Leaves:
            _, size, narrow = with_rounding(by_hand, *arguments)
            return [one + other / HALF for one, other in zip(size, narrow, strict=True)] if self._narrow_types else size

        return quick_jit(size)

    def _agreeing(self, points: Sequence[FurtherPoint], regime: str) -> list[Verdict]:
        """The verdicts if nothing is wrong at some points, with the largest disagreement by each leaf."""
        template = Verdict(self.subject, "", "pass", 0.0, HALF, transform="drawn", regime=regime, reference="jax.vjp")
        errors = np.max([point.disagreements for point in points if point.disagreement <= HALF], 0, initial=0)
        pairs = zip(self.problem.names, np.broadcast_to(errors, len(self.problem.names)).tolist(), strict=True)
        return [replace(template, leaf=name, error=error) for name, error in pairs] if points else []

    @np.errstate(all="ignore")
    def _unlike_differences(self, points: Sequence[FurtherPoint]) -> list[FurtherPoint]:
        """The first points where a difference of the function along one direction is not the derivative.

        Automatic differentiation is wrong where the code says so (``stop_gradient``, a custom rule), and where it loses
        a path, as in ``where(x == y, f(x), ...)``. A formula may have the same mistake.
        """
        names = {equation.primitive.name for equation in all_equations(self.program)}
        if self._stop_gradient_as_constant or self._narrow_types or not any(map(MISLEADING.match, names)):
            return []
        random, found = np.random.default_rng(2), []

        def pulled(leaves: Leaves, y_bars: Leaves, directions: Leaves) -> Array:
            at = lambda t: _product(self.problem.function, y_bars, jacobians.moved(leaves, t, directions))[0]  # noqa: E731
            return jax.lax.map(at, jnp.asarray(DIFFERENCE_STEPS))

        program = quick_jit(pulled)
        for point in points:
            directions = [random.normal(size=np.shape(x)) * np.where(x == 0, 1, np.abs(x)) for x in point.leaves]
            with jax.enable_x64(True):
                y = np.asarray(program(point.leaves, point.y_bars, directions))
            slopes = (y[1:] - y[0]) / DIFFERENCE_STEPS[1:]  # to the right and to the left, for two steps
            pairs = zip(point.found, directions, strict=True)
            of_formula = np.concatenate([leaf.hand.reshape(-1) * along.reshape(-1) for leaf, along in pairs])
            off = np.abs(np.mean(slopes[2:]) - np.sum(of_formula))
            is_clear = off > UNLIKE * (np.sum(np.abs(of_formula)) + np.abs(np.mean(slopes[2:])))
            if is_clear and np.ptp(slopes) < off / 4:  # not at a kink, and not because of rounding
                found.append(point)
        return found[:MOST_JUDGED]

    @np.errstate(all="ignore")
    def _by_arbiter(self, point: FurtherPoint, regime: str = "") -> tuple[list[Verdict], bool]:
        """The verdicts on what the arbiter finds wrong at a point, and whether the function is differentiable there.

        All elements that are not at a kink are moved together, too. At equal elements, all partial derivatives may
        exist but no derivative: of the mean of the largest and the smallest element, for example. If a single element
        is at a kink, a formula may take a value between the slopes on both sides. It is wrong if it is farther outside
        of them than they are apart.
        """
        random = np.random.default_rng(0)
        pulled = partial(_product, self._judged_function(point.leaves), point.y_bars)
        reference = arbiter.reference_jacobian(pulled, point.leaves, _doubtful(point.found, MOST_ELSEWHERE))
        parts = map(self._with_arbiter, point.found, reference)
        compared = [values.with_usable_scale() for values, _ in parts]
        kinks = [np.asarray(values.kink) for values in compared]
        steps = [np.where(kink, 0.0, random.normal(size=kink.shape)) for kink in kinks]
        together = _reference_along(pulled, point.leaves, steps)
        rest, allowed = together.values.item(), together.error.item()
        for values, step in zip(compared, steps, strict=True):
            error = values.arbiter_error + HALF * values.scale + values.narrow
            rest -= np.sum(values.arbiter * step, where=step != 0)
            allowed += np.sum(error * np.abs(step), where=step != 0)
        is_alone = sum(map(np.sum, kinks)) == 1
        is_smooth = not together.kink.any() and abs(rest) <= allowed < np.inf
        shown = {"regime": regime} if regime else {"regime": self._shown(point), "note": DOMAIN}
        judged = partial(self._verdict, transform="drawn", tolerance=HALF, reference=together.name, **shown)
        verdicts = []
        for name, values, kink in zip(self.problem.names, compared, kinks, strict=True):
            error = np.where(kink, 3.0, 1.0) * values.arbiter_error  # at a kink, half of the distance of the slopes
            values = replace(values, arbiter_error=error)
            # NaN is wrong only where the arbiter knows the derivative, and jax.grad gives a number. If jax.grad gives
            # NaN too, as for 0 / 0 in the derivative of a norm at 0, the formula is not meant for this point.
            is_known = ~kink & (error <= np.maximum(HALF * values.scale, values.underflow))
            is_known &= np.isfinite(values.automatic)
            counted = np.where(np.isfinite(values.hand), np.where(kink, is_alone, is_smooth), is_known)
            verdicts.append(judged(name, values.only_at(counted)))
        wrong = [verdict for verdict in verdicts if verdict.outcome == "fail"]
        has_kink = any(map(np.any, kinks))
        if has_kink and not is_alone and not wrong:
            wrong = self._of_equal_numbers(point, pulled, shown)
        return wrong, is_smooth and not has_kink

    def _of_equal_numbers(self, point: FurtherPoint, pulled: Function, shown: Mapping[str, str]) -> list[Verdict]:
        """What is wrong along a direction that moves equal numbers by the same step.

        If a pool has several largest elements, it has a kink along each of them, but none along a step of all of them.
        So the derivatives of these elements have a right sum, though a formula may choose how it divides the sum.

        Args:
            point: the point.
            pulled: the function, multiplied by the cotangents.
            shown: the regime of the verdict, and a note.
        """
        numbers = np.concatenate([np.ravel(leaf) for leaf in point.leaves])
        _, group, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        steps = np.where(counts > 1, np.random.default_rng(1).normal(size=counts.shape), 0.0)[group]
        parts = np.split(steps, np.cumsum([np.size(leaf) for leaf in point.leaves])[:-1])
        together = _reference_along(pulled, point.leaves, parts)
        hand, automatic, scale, narrow = (
            np.concatenate([np.ravel(array) for array in arrays]) for arrays in zip(*point.found, strict=True)
        )
        right, terms = together.values.item(), scale @ np.abs(steps)
        allowed = together.error.item() + HALF * terms + narrow @ np.abs(steps)
        by_hand, by_jax = hand @ steps, automatic @ steps
        if together.kink.any() or not abs(by_jax - right) <= allowed < abs(by_hand - right) < np.inf:
            return []
        moved = next(name for name, part in zip(self.problem.names, parts, strict=True) if part.any())
        found = {"hand": float(by_hand), "automatic": float(by_jax), "arbiter": right, "reference": together.name}
        found |= {"error": float(abs(by_hand - right) / terms), "automatic_error": float(abs(by_jax - right) / terms)}
        note = "There are ties. Equal numbers move by the same step: the values are sums of derivatives times steps."
        found |= {**shown, "note": f"{note} {shown.get('note', '')}"}
        return [replace(Verdict(self.subject, moved, "fail", 0.0, HALF, transform="drawn"), **found)]

    def _shown(self, point: FurtherPoint) -> str:
        """The numbers of a point, as a regime."""
        shown = partial(np.array2string, separator=", ", threshold=MOST_SHOWN_NUMBERS)
        pairs = zip(self.problem.names, map(np.asarray, point.leaves), strict=True)
        y_bars = [np.asarray(bar) for bar in point.y_bars]
        y_bar = shown(y_bars[0]) if len(y_bars) == 1 else f"({', '.join(map(shown, y_bars))})"
        place = ", ".join([*(f"{name} = {shown(leaf)}" for name, leaf in pairs), f"y_bar = {y_bar}"])
        return f"at a further point, {place}"

    def of_other_shapes(self, regime: str) -> list[Verdict] | None:
        """Compares a pulled-back cotangent with automatic differentiation, and asks the arbiter only if they differ.

        Differences are measured relative to the largest derivative by each leaf. After the point itself, there are
        other numbers, see ``NUMBERS``: a loss may be 0 for many of them, and a quantile or a bound on the deviation
        needs one that is far from the others.

        Args:
            regime: the name of this point in the verdicts.

        Returns:
            The verdicts. None if the function is not meant for this point: a result is not finite, or an index lies
            beyond the end of an array.
        """

        def pulled_back(leaves: Leaves, y_bars: Leaves) -> tuple[Leaves, list[Derivatives]]:
            y, automatic = jacobians.values_and_pullback(self.problem, leaves, y_bars)
            scale = [jnp.full_like(bar, jnp.max(jnp.abs(bar), initial=0)) for bar in automatic]
            exact = map(jnp.zeros_like, automatic)
            return y, list(map(Derivatives, self.problem.pullback(leaves, y_bars), automatic, scale, exact))

        verdicts = None
        with jax.enable_x64(True):
            program = quick_jit(pulled_back)
            for suffix, numbers in NUMBERS.items():
                leaves = [numbers(np.array(leaf, np.float64)) for leaf in self.problem.leaves]
                leaves = self.problem.domain(leaves) if self.problem.domain else leaves
                y, found = program(leaves, self.y_bars)
                point = FurtherPoint(leaves, self.y_bars, jacobians.as_rows(found, 1))
                if not all(np.isfinite(np.asarray(part)).all() for part in y):
                    continue
                if not point.disagreement <= HALF and self._reads_beyond_the_end():
                    break
                wrong, right = self._wrong_at([point], regime + suffix)
                verdicts = [*(verdicts or []), *(wrong or self._agreeing(right, regime + suffix))]
                if wrong:
                    break
        return verdicts

    def _reads_beyond_the_end(self) -> bool:
        """Whether the function uses an index beyond the end of an axis. JAX then reads the last one, or writes none."""
        checked = checkify.checkify(self.problem.function, errors=checkify.index_checks)
        return quick_jit(checked)(self.problem.leaves)[0].get() is not None

    def _judged_function(self, leaves: Leaves, given: Problem | None = None) -> Function:
        """The function whose derivative the arbiter computes at a point."""
        function = (given or self.problem).function
        return problem.with_stopped_as_constants(function, leaves) if self._stop_gradient_as_constant else function

    def _with_arbiter(self, found: Derivatives, reference: arbiter.Reference) -> tuple[ComparedValues, str]:
        """Puts the arbiter's values of one leaf beside the others, and writes a note for the reader.

        In a large leaf the arbiter computes only some elements; the others get the value of automatic differentiation.
        Elements at kinks get it too if the formula has to give the values of ``jax.grad`` there. The note then says so.

        Args:
            found: the derivatives by the formula and by automatic differentiation.
            reference: the arbiter's derivatives.
        """
        hand, automatic, scale, narrow = map(np.asarray, found)
        values, error, columns = automatic.copy(), np.zeros_like(automatic), reference.columns
        values[:, columns], error[:, columns] = reference.values, reference.error
        # If automatic differentiation is the only source, and not finite, the derivative is not known.
        error[~np.isfinite(values)] = np.inf
        # At a kink, or where automatic differentiation is wrong, it is no reference for all other elements either.
        off = _disagreement(automatic, values, scale + (error + narrow) / TOLERANCES["float64"])
        if reference.kink.any() or not np.all(off[:, columns] <= TOLERANCES["float64"]):
            differs = _disagreement(hand, automatic, scale) > TOLERANCES["float64"]
            differs[:, columns] = False
            error[differs] = np.inf
        note = ""
        if len(columns) < values.shape[1]:
            note += f"{len(columns):,} of {values.shape[1]:,} elements were compared with the arbiter, all others with "
            note += "automatic differentiation alone. "
        if (looser := narrow > TOLERANCES["float64"] * scale).any():
            largest = float(np.max(narrow[looser] / scale[looser]))
            note += f"The function rounds to {' and '.join(self._narrow_types)}. So errors up to {largest:.0e} of the "
            note += f"terms are allowed in {looser.sum():,} of {looser.size:,} derivatives. "
        # Elsewhere an infinite error says that the arbiter knows nothing. That excuses no formula.
        at_kink = np.zeros(values.shape, bool)
        at_kink[:, columns] = reference.kink
        # The scale of automatic differentiation may be 0 there. The larger one-sided derivative takes its place.
        scale = np.where(at_kink & np.isfinite(error), np.fmax(scale, np.abs(values) + error), scale)
        if self._kinks_as_automatic and at_kink.any():
            note += f"{at_kink.sum()} of {at_kink.size} at a kink, where automatic differentiation is declared right. "
            values[at_kink], error[at_kink] = automatic[at_kink], 0
        if self.any_slope_at_kinks:
            between = np.abs(hand - values) <= error + TOLERANCES["float64"] * scale + narrow
            between &= at_kink & np.isfinite(error)
            values[between], error[between] = hand[between], 0
        compared = ComparedValues(hand, automatic, values, error, scale, UNDERFLOW["float64"], narrow, at_kink)
        return compared, note.strip()

    def second_order(self, *, regime: str = "normal") -> Iterator[Verdict]:
        """Compares derivatives of the formula in float64: along a direction of the leaves, and one of the cotangent.

        The first is a Hessian-vector product. The second has to be what the formula gives for the direction in place of
        the cotangent, because a pullback is linear. ``first_order`` has compared that with the arbiter.
        """
        leaves, tolerance = self.problem.leaves, SECOND_ORDER_TOLERANCE
        with jax.enable_x64(True):
            reasons = []
            for derivative in (jacobians.forward_derivative, jacobians.reverse_derivative):
                program = quick_jit(partial(jacobians.second_order, self.problem, derivative))
                try:
                    derivatives, by_y_bar = program(leaves, self.y_bars, self.directions, self.y_directions)
                    break
                except (TypeError, ValueError, NotImplementedError) as error:
                    reasons.append(str(error).strip().partition("\n")[0].rstrip("."))
            else:
                note = "not compared, because JAX cannot differentiate the formula or jax.vjp of the function: "
                note += "; ".join(dict.fromkeys(reasons)) + "."
                missing = Verdict(self.subject, "", "inconclusive", np.nan, tolerance, kind="second order", note=note)
                yield replace(missing, regime=regime)
                return
            linear = self._pullbacks(leaves, self.y_directions)
        own_rounding = self._own_rounding(partial(jacobians.along_leaves, self.problem.pullback, derivative))
        point = FurtherPoint(leaves, self.y_bars, jacobians.as_rows(derivatives, 1))
        verdicts = self._second_order_at(point, own_rounding, regime=regime, tolerance=tolerance)
        for name, by_s, by_formula in zip(self.problem.names, by_y_bar, linear, strict=True):
            right, _, scale, narrow = map(np.asarray, by_formula)
            by_s, exact = np.asarray(by_s).reshape(1, -1), np.zeros_like(right)
            values = ComparedValues(by_s, right, right, exact, scale, UNDERFLOW["float64"], narrow)
            known = {"tolerance": tolerance, "regime": regime, "reference": "the formula", "transform": "by y_bar"}
            verdict = self._verdict(name, values, kind="second order", **known)
            verdicts.append(verdict if verdict.outcome == "pass" else replace(verdict, note=LINEAR))
        yield from verdicts
        if not has_failed(verdicts) and "fail" not in self._formula_outcome.values():
            yield from self._second_order_elsewhere(program, own_rounding)

    def _second_order_at(
        self, point: FurtherPoint, own_rounding: Callable[..., Leaves], **known: object
    ) -> list[Verdict]:
        """Compares the derivative of the formula along the directions with that of the arbiter."""
        verdicts = []
        with jax.enable_x64(True):
            problem = self.problem._replace(leaves=point.leaves, function=self._judged_function(point.leaves))
            reference = arbiter.reference_second_order(problem, point.y_bars, self.directions, _doubtful(point.found))
            for number, (name, right) in enumerate(zip(self.problem.names, reference, strict=True)):
                if right.name == arbiter.OF_FORMULA and self._formula_outcome[name] == "fail":
                    continue  # a wrong formula is no reference
                values, note = self._with_arbiter(point.found[number], right)
                about = {"kind": "second order", "transform": "jit", "reference": right.name, "note": note, **known}
                verdict = self._verdict(name, values, **about)
                if verdict.outcome == "fail":
                    # JAX's own rules lose digits in the tails, as 1 - tanh² does. That is no mistake of the formula.
                    own = np.asarray(own_rounding(point.leaves, point.y_bars, self.directions, np.ones(()))[number])
                    verdict = self._verdict(name, replace(values, scale=values.scale + own.reshape(1, -1)), **about)
                verdicts.append(verdict)
        return verdicts

    def _second_order_elsewhere(
        self, program: Callable[..., PyTree], own_rounding: Callable[..., Leaves]
    ) -> list[Verdict]:
        """What the arbiter finds wrong near the further points where the two second derivatives differ.

        At the points themselves, a number may be at a kink, or be a single one where the formula has another branch,
        such as x = 0 in sin(x) / x. So all numbers are moved a little.
        """
        random, judged = np.random.default_rng(3), 0
        for point in self.further_points:
            leaves = [x + NEARBY * np.where(x == 0, 1, x) * random.uniform(-1, 1, np.shape(x)) for x in point.leaves]
            with jax.enable_x64(True):
                leaves = self.problem.domain(leaves) if self.problem.domain else leaves
                derivatives, _ = program(leaves, point.y_bars, self.directions, self.y_directions)
            point = FurtherPoint(leaves, point.y_bars, jacobians.as_rows(derivatives, 1))
            if judged < MOST_JUDGED and point.is_finite and point.disagreement > VISIBLE_CHANGE:
                judged += 1
                known = {"tolerance": HALF, "regime": self._shown(point), "note": DOMAIN}
                verdicts = self._second_order_at(point, own_rounding, **known)
                if wrong := [verdict for verdict in verdicts if verdict.outcome == "fail"]:
                    return wrong
        return []

    def in_type(
        self, dtype: str, *, regime: str = "normal", transforms: Sequence[str] = TRANSFORMS
    ) -> Iterator[Verdict]:
        """Compares a pulled-back cotangent in a type, under ``jit``, ``vmap`` and ``scan``, with float64.

        The reference is the formula in float64, at the same point. If ``first_order`` has found the formula wrong, the
        reference is automatic differentiation in float64. If both are right, their difference counts as the error of
        the reference.

        Under ``vmap`` and ``scan``, there is a second point with another cotangent. So a formula is found that mixes
        the points up, or that always uses the first one. In a narrow type, there is a third one, where the numbers are
        300 times as large. Their squares overflow in float16.
        """
        with jax.enable_x64(True):  # random bits are those of float64 in every type
            own, tolerance = jacobians.condensed(self._problem_in(dtype)), TOLERANCES[dtype]
            outputs = jax.eval_shape(own.function, own.leaves)
            y_bars = [np.asarray(bar).astype(y.dtype) for bar, y in zip(self.y_bars, outputs, strict=True)]
            point = list(own.leaves), y_bars
            # At nearly the same point, the function has a derivative, too, and rarely a kink.
            points = [point, jax.tree.map(lambda array: (0.97 * np.asarray(array)).astype(array.dtype), point)]
            if dtype != "float64" and not own.domain:
                points.append(([(300 * np.asarray(leaf)).astype(leaf.dtype) for leaf in own.leaves], y_bars))
            stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *points)
            bars_by_transform, automatic = quick_jit(partial(jacobians.under_transforms, own, transforms))(*stacked)
            automatic = [np.asarray(leaf).astype(np.float64).reshape(len(leaf), -1) for leaf in automatic]
            in_float64 = jacobians.joined([self._pullbacks(*problem.cast(point, "float64")) for point in points])
            right = list(map(self._right_in_float64, self.problem.names, in_float64))

            def differs(found: Sequence[tuple[Array, ...]]) -> bool:
                """Whether derivatives in this type, with their errors, contradict those in float64."""
                return any(
                    np.any(_disagreement(bars, exact, scale + (narrow + error) / tolerance)[:2] > tolerance)
                    for (bars, error), (exact, _), (*_, scale, narrow) in zip(found, right, in_float64, strict=True)
                )

            # If the function reads the type of its arguments, as for ``jnp.finfo``, it is another one in this type.
            is_alone, alone = False, right
            if differs([(bars, np.zeros_like(bars)) for bars in automatic]):
                alone = self._in_type_alone(own, points, automatic, in_float64)
                is_alone = differs(alone)
            right, note = (alone, ALONE) if is_alone else (right, "")
        total = sum(float(np.abs(bars.astype(np.float64)).sum()) for bars in stacked[1])
        underflow = UNDERFLOW.get(dtype, 0.0) * max(1.0, total)

        for transform, bars in bars_by_transform.items():
            for number, name in enumerate(self.problem.names):
                found = np.asarray(bars[number]).astype(np.float64).reshape(len(bars[number]), -1)
                arrays = automatic[number], *right[number], *in_float64[number][2:]
                by_jax, exact, error, scale, narrow = (np.asarray(array)[: len(found)] for array in arrays)
                # The second point may lie where the function has no derivative. There it does not count.
                counted = np.isfinite(exact)
                counted[0] = True
                # Numbers may be too large at the third one. It counts only if automatic differentiation is right there.
                counted[2:] &= np.all(_disagreement(by_jax, exact, scale + narrow / tolerance)[2:] <= tolerance)
                values = ComparedValues(found, by_jax, exact, error, scale, underflow, narrow).only_at(counted)
                judged = partial(self._verdict, name, dtype=dtype, transform=transform, regime=regime, note=note)
                yield judged(values, reference=f"50 digits, {dtype}" if is_alone else "float64")
                # A formula that is wrong in float64 needs no second verdict.
                if transform == "jit" and not is_alone and self._formula_outcome[name] != "fail":
                    relative = self._relative_in_type(dtype, number, values, problem.cast(point, "float64"))
                    if relative is not None:
                        yield judged(relative, unit="relative", tolerance=HALF_OF_DIGITS[dtype])

    def _in_type_alone(
        self, problem: Problem, points: list[tuple[Leaves, Leaves]], automatic: Leaves, in_float64: list[Derivatives]
    ) -> Sequence[tuple[Array, ...]]:
        """The derivatives by each leaf of the function that is traced in a type, in 50 digits, and their errors.

        Args:
            problem: the problem in this type.
            points: each point, and its cotangents.
            automatic: the derivatives by automatic differentiation in this type.
            in_float64: the derivatives in float64, for the scale of errors.
        """
        rows = []
        for row, (leaves, y_bars) in enumerate(points):
            pairs = zip(automatic, in_float64, strict=True)
            found = [Derivatives(*(array[[row]] for array in (bar, bar, *other[2:]))) for bar, other in pairs]
            product = partial(_product, self._judged_function(leaves, problem), y_bars)
            try:
                reference = arbiter.exact_jacobian(product, leaves, _doubtful(found))
            except InputError:  # an operation has no rule, so nothing is known
                return [(bars, np.full_like(bars, np.inf)) for bars in automatic]
            compared = map(self._with_arbiter, found, reference)
            rows.append([(values.arbiter, values.arbiter_error) for values, _ in compared])
        return [tuple(map(np.concatenate, zip(*of_leaf, strict=True))) for of_leaf in zip(*rows, strict=True)]

    def _relative_in_type(
        self, dtype: str, number: int, values: ComparedValues, point: tuple[Leaves, Leaves]
    ) -> ComparedValues | None:
        """The values with the size of the derivative as their scale, where digits are lost in a type; otherwise None.

        Only elements count that differ by more than half of the type's digits from the formula in float64. There the
        arbiter computes the exact derivative of ⟨ȳ, f(x)⟩, at the numbers of this type.

        Args:
            dtype: the type.
            number: the index of the leaf.
            values: the values in this type, with those of float64 as the arbiter's.
            point: the point x and the cotangent ȳ, in float64.
        """
        leaves, y_bars = point
        far = relative_error(values.hand - values.arbiter, np.abs(values.arbiter))
        doubts = np.where(compared_values.needs_relative(values, dtype) & ~(far <= HALF_OF_DIGITS[dtype]), far, 0.0)
        columns = np.argsort(-doubts[0])[: min(arbiter.MOST_COLUMNS, np.count_nonzero(doubts))]
        if not len(columns):
            return None
        with jax.enable_x64(True):
            product = partial(_product, self._judged_function(leaves), y_bars)
            exact, error = values.arbiter.copy(), values.arbiter_error.copy()
            found = arbiter.derivatives_at(product, leaves, number, columns)
            exact[:, columns], error[:, columns] = found.values, found.error
            values = replace(values, arbiter=exact, arbiter_error=error)

            def condition(columns: np.ndarray) -> np.ndarray:
                program = quick_jit(partial(jacobians.unavoidable_rounding, self.problem, float(jnp.finfo(dtype).eps)))
                return ROUNDED_UNITS * np.asarray(program(leaves, y_bars)[number]).reshape(1, -1)[:, columns]

            return compared_values.relative_values(values, columns, condition, dtype)

    @np.errstate(invalid="ignore")  # both may be infinite
    def _right_in_float64(self, name: str, found: Derivatives) -> tuple[Array, Array]:
        """Which of the two derivatives by a leaf with this name in float64 is right, and its error."""
        hand, automatic, scale, narrow = found
        if self._formula_outcome[name] == "fail":
            return automatic, np.zeros_like(automatic)
        if not self._automatic_is_right[name]:
            return hand, np.zeros_like(hand)
        error = np.abs(hand - automatic)
        # If the arbiter could not judge, it is not known which of two different values is right.
        is_known = (error <= TOLERANCES["float64"] * scale + narrow) | (self._formula_outcome[name] == "pass")
        return hand, np.where(is_known, error, np.inf)

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
        tolerance = TOLERANCES["float64"]
        for name, rows, unchanged, values in zip(self.problem.names, bars, formula, right, strict=True):
            rows, unchanged = np.asarray(rows).reshape(len(mutants), -1), np.asarray(unchanged).reshape(-1)
            hand, automatic, scale, narrow = (np.asarray(value).reshape(-1) for value in values)
            truth = automatic if self._automatic_is_right[name] else hand
            scale = usable_scale(scale, np.abs(truth))
            allowed = scale + narrow / tolerance
            is_right = _disagreement(unchanged, truth, allowed) <= tolerance
            found |= np.any(~(_disagreement(rows, truth, allowed) <= tolerance) & is_right, 1)  # NaN counts, too
            visible = scale + narrow / BEYOND_ROUNDING
            changed |= np.any(~(_disagreement(rows, unchanged, visible) <= BEYOND_ROUNDING) & is_right, 1)
        return found, changed

    def _verdict(self, leaf: str, values: ComparedValues, **known: object) -> Verdict:
        """The verdict at the worst element of the formula.

        Args:
            leaf: the name of the leaf.
            values: the values by its elements.
            known: the fields of the verdict that are already known, such as its kind and its dtype.
        """
        dtype = str(known.get("dtype", "float64"))
        template = replace(Verdict(self.subject, leaf, "pass", 0.0, TOLERANCES[dtype]), **known)
        verdict, at = values.with_usable_scale().verdict(template)
        shape = np.shape(self.problem.leaves[self.problem.names.index(leaf)])
        return replace(verdict, index=tuple(map(int, np.unravel_index(at[-1], shape)))) if at else verdict


def _product(function: Function, y_bars: Leaves, leaves: Leaves) -> Leaves:
    """⟨ȳ, f(x)⟩ as the only output."""
    return problem.inner_product(y_bars, function(leaves))


def _reference_along(pulled: Function, leaves: Leaves, steps: Leaves) -> arbiter.Reference:
    """The derivative of a function of leaves along the direction of these steps, by the arbiter."""
    directions = [np.reshape(step, np.shape(leaf)) for leaf, step in zip(leaves, steps, strict=True)]
    along = lambda t: pulled(jacobians.moved(leaves, t[0], directions))  # noqa: E731
    return arbiter.reference_jacobian(along, [np.zeros(())])[0]


def _with_outlier(leaf: np.ndarray, factor: float) -> np.ndarray:
    """The leaf with another first number: a multiple of its largest one."""
    other = leaf.copy()
    other.reshape(-1)[:1] = factor * np.max(np.abs(leaf), initial=0)
    return other


def _disagreement(found: Array, other: Array, scale: Array) -> np.ndarray:
    with np.errstate(all="ignore"):
        return relative_error(found - other, scale)


def _doubtful(found: Sequence[Derivatives], most: int = arbiter.MOST_COLUMNS) -> arbiter.Columns:
    """The elements about which the arbiter is asked, for two reasons.

    They are how far the formula and automatic differentiation disagree, and how much larger the scale of errors is than
    the derivative. Where it is much larger, terms cancel, so digits may be lost.
    """
    doubts = []
    for hand, automatic, scale, _ in found:
        reasons = _disagreement(hand, automatic, scale), relative_error(scale, np.abs(automatic))
        doubts.append(np.stack([np.max(reason, 0, initial=0) for reason in reasons]))
    return lambda count: [arbiter.doubtful(doubt, min(count, most)) for doubt in doubts]
