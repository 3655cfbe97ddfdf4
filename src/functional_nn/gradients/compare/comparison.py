"""The comparison of one problem: full Jacobians from three sources in float64, then other types and transforms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.extend.core import ClosedJaxpr

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.gradients.arbiter import (
    MOST_COLUMNS,
    OF_FORMULA,
    ReferenceJacobian,
    derivatives_at,
    exact_jacobian,
    reference_jacobian,
    reference_second_order,
    sensitivity,
)
from functional_nn.gradients.compare.compared_values import (
    HALF_OF_DIGITS,
    ComparedValues,
    needs_relative,
    relative_error,
    relative_values,
    usable_scale,
)
from functional_nn.gradients.compare.error_scale import TOLERANCES, differ_in_types_alone, narrow_types, with_rounding
from functional_nn.gradients.compare.jacobians import (
    Derivatives,
    Pullbacks,
    as_rows,
    at_points,
    condensed,
    forward_derivative,
    reverse_derivative,
    rounding_of_second_order,
    second_order,
    unavoidable_rounding,
    under_transforms,
    values_and_pullback,
    with_second,
)
from functional_nn.gradients.compare.points import branch_constants, further_points
from functional_nn.gradients.compare.problem import (
    IMPURE,
    Array,
    Function,
    Leaves,
    Problem,
    inner_product,
    with_stopped_as_constants,
)
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
MOST_JUDGED = 4
"""The arbiter judges at most this many differentiable further points where all derivatives are finite, and at most this
many others."""
MOST_CALLS = 12
"""The arbiter is asked about at most this many further points, including those without a derivative."""

OUTLIER = 16
"""A single large number is this many times as large as the others."""
MISLEADING = re.compile("select_n|cond|stop_gradient|custom_")
"""Operations whose derivative by JAX may not be that of the function."""
DIFFERENCE_STEPS = np.array([0, *(sign * 2.0**power for power in (-14, -18) for sign in (1, -1))])
"""The steps, relative to each number, at which a derivative is compared with differences in float64."""
NEARBY = 1e-2
"""Second derivatives are compared at points that differ by this from the further points."""
ALONE = "The function reads the type of its arguments. So the formula was judged in this type alone."
UNJUDGED = 1e30
"""An error so large that a derivative is not judged."""
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
        found: the bars by the formula and by automatic differentiation.
        is_finite: whether all bars are finite.
    """

    leaves: Leaves
    y_bars: Leaves
    found: Derivatives
    is_finite: bool

    @property
    def disagreements(self) -> list[float]:
        """The largest difference of the two for each leaf, in units of the scale. NaN counts as infinite."""
        largest = (
            np.max(_disagreement(hand, automatic, usable_scale(scale, np.abs(automatic)) + narrow / HALF), initial=0)
            for hand, automatic, scale, narrow in zip(*self.found, strict=True)
        )
        return [float(np.nan_to_num(error, nan=np.inf)) for error in largest]

    def with_rounding(self, size: Leaves) -> FurtherPoint:
        """The point with a larger scale of errors: how far rounding inside of the formula can move each bar."""
        pairs = zip(self.found.scale, size, strict=True)
        scale = [usual + np.asarray(own).reshape(1, -1) for usual, own in pairs]
        return self._replace(found=self.found._replace(scale=scale))


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
            self.y_bars, self.directions, self.y_directions = self._drawn(seed)
            self._pullbacks = Pullbacks(self.problem)
            self._program = _traced(self.problem)
            self._narrow_types = narrow_types(self._program)
        self._formula_outcome: dict[str, Outcome] = dict.fromkeys(self.problem.names, "pass")
        self._automatic_is_right = dict.fromkeys(self.problem.names, True)
        self._at_kink = False

    def _drawn(self, seed: int) -> tuple[Leaves, Leaves, Leaves]:
        """Draws a cotangent of the outputs, a direction of the leaves, and one of the cotangent.

        Their numbers are multiples of 1/128. Nearly all are exact in every type; bfloat16 rounds those beyond ±2.
        """
        random = np.random.default_rng(seed)

        def draw(leaf: Array | jax.ShapeDtypeStruct) -> np.ndarray:
            return ((np.round(random.normal(size=leaf.shape) * 64) + 0.5) / 64).astype(leaf.dtype)

        outputs = jax.eval_shape(self.problem.function, self.problem.leaves)
        structures = outputs, self.problem.leaves, outputs
        y_bars, directions, y_directions = ([draw(leaf) for leaf in leaves] for leaves in structures)
        return y_bars, directions, y_directions

    @np.errstate(invalid="ignore")
    def check_purity(self) -> None:
        """Raises InputError if the formula gives other values when it is called than when JAX traces it."""
        with jax.enable_x64(True):
            leaves, y_bars = (list(map(jnp.asarray, arrays)) for arrays in (self.problem.leaves, self.y_bars))
            called = self.problem.pullback(leaves, y_bars)
            traced = self._pullbacks(leaves, y_bars)
        for name, one, other, _, scale, narrow in zip(self.problem.names, called, *traced, strict=True):
            one = np.asarray(one).reshape(1, -1)
            allowed = VISIBLE_CHANGE * usable_scale(scale, np.abs(other)) + narrow
            differs = np.abs(one - other) > allowed
            if np.any(differs | (np.isnan(one) != np.isnan(other))):
                given = "other values if JAX traces it than if it is called"
                raise InputError(f"hand_vjp: {name}", "a function of its arguments alone", given, IMPURE)

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
            near = [constant for constant in self._constants if 1 / far < constant < far]
            large, small = max([LARGE, *(64 * c for c in near)]), min([1 / LARGE, *(c / 64 for c in near)])
            factors = (3, -3) if "float16" in self._narrow_types else (large, -large, small)
            cotangents = [[(factor * bar).astype(bar.dtype) for bar in self.y_bars] for factor in factors]
            drawn = self._pullbacks(leaves, *cotangents)
            function = self._judged_function(leaves)
            reference = reference_jacobian(function, leaves, _doubts(found))
        if leaves is self.problem.leaves:
            self._at_kink = any(bool(kink.any()) for kink in reference.kink)
        for number, name in enumerate(self.problem.names):
            values, note = self._with_arbiter(found, reference, number)
            judged = partial(self._verdict, name, reference=reference.name, regime=regime, transform="jit", note=note)
            verdict = judged(values)
            self._formula_outcome[name] = worst_outcome([self._formula_outcome[name], verdict.outcome])
            self._automatic_is_right[name] &= verdict.automatic_outcome != "fail"
            yield verdict
            if leaves is self.problem.leaves:
                with jax.enable_x64(True):
                    condition = partial(sensitivity, function, leaves, number, values.arbiter)
                    relative = relative_values(values, reference.columns[number], condition)
                if relative is not None:
                    yield judged(relative, unit="relative", tolerance=HALF_OF_DIGITS["float64"])
            for row, y_bars in enumerate(cotangents):
                y_bar = np.concatenate([np.reshape(bar, -1).astype(np.float64) for bar in y_bars])
                rows = slice(row, row + 1)
                hand, automatic = (np.asarray(source[number][rows]) for source in (drawn.hand, drawn.automatic))
                yield judged(values.multiplied(y_bar, hand, automatic), transform="drawn")

    @cached_property
    def _constants(self) -> list[float]:
        """The constants at which the function or the formula may change its branch."""
        with jax.enable_x64(True):
            function = jax.make_jaxpr(self.problem.function)(self.problem.leaves)
            pullback = jax.make_jaxpr(self.problem.pullback)(self.problem.leaves, self.y_bars)
        return list(dict.fromkeys([*branch_constants(function), *branch_constants(pullback)]))

    @cached_property
    def further_points(self) -> list[FurtherPoint]:
        """The drawn points at which the formula is judged, and at which errors are planted."""
        found = []
        with jax.enable_x64(True):
            for leaves, y_bars in further_points(self.problem, self.y_bars, self._constants):
                bars = self._pullbacks(leaves, y_bars)
                is_finite = all(bool(np.isfinite(bar).all()) for bar in (*bars.hand, *bars.automatic))
                found.append(FurtherPoint(leaves, y_bars, bars, is_finite))
        return found

    def at_further_points(self) -> Iterator[Verdict]:
        """Compares a pulled-back cotangent with automatic differentiation at further points.

        Where the two differ, the arbiter decides. Points where the function or its derivative does not exist do not
        count. Nobody has chosen these points, so only half of the digits have to be right. The formula may also lose
        digits by rounding in its own operations.
        """
        function = quick_jit(self.problem.function)
        own_rounding = quick_jit(partial(with_rounding, self.problem.pullback))
        agreeing = [point for point in self.further_points if max(point.disagreements) <= HALF]
        others = [point for point in self.further_points if not max(point.disagreements) <= HALF]
        doubtful = self._unlike_differences(agreeing)
        errors = [
            max((point.disagreements[n] for point in agreeing), default=0) for n in range(len(self.problem.names))
        ]
        judged, calls, wrong = {True: 0, False: 0}, 0, []
        for point in sorted(others, key=lambda point: -max(point.disagreements)):
            with jax.enable_x64(True):
                exists = all(np.isfinite(np.asarray(y)).all() for y in function(point.leaves))
                if wrong or calls == MOST_CALLS or judged[point.is_finite] == MOST_JUDGED or not exists:
                    continue
                point = point.with_rounding(own_rounding(point.leaves, point.y_bars).size)
                if not max(point.disagreements) <= HALF:
                    calls += 1
                    wrong, is_smooth = self._by_arbiter(point)
                    if not is_smooth:
                        continue
                    judged[point.is_finite] += 1
            agreeing.append(point)
        for point in doubtful:
            if not wrong:
                with jax.enable_x64(True):
                    wrong, _ = self._by_arbiter(point)
        self._formula_outcome |= {verdict.leaf: verdict.outcome for verdict in wrong}
        self.further_points = agreeing  # errors are planted only where the formula was judged
        template = Verdict(self.subject, "", "pass", 0.0, HALF, transform="drawn", reference="jax.vjp")
        template = replace(template, regime=f"{len(agreeing)} further points")
        pairs = zip(self.problem.names, errors, strict=True)
        yield from wrong or [replace(template, leaf=name, error=error) for name, error in pairs]

    @np.errstate(all="ignore")
    def _unlike_differences(self, points: Sequence[FurtherPoint]) -> list[FurtherPoint]:
        """The first points where a difference of the function along one direction is not the derivative.

        Automatic differentiation is wrong where the code says so (``stop_gradient``, a custom rule), and where it loses
        a path, as in ``where(x == y, f(x), ...)``. A formula may have the same mistake.
        """
        names = {equation.primitive.name for equation in all_equations(self._program)}
        if self._stop_gradient_as_constant or self._narrow_types or not any(map(MISLEADING.match, names)):
            return []
        random, found = np.random.default_rng(2), []

        def pulled(leaves: Leaves, y_bars: Leaves, directions: Leaves) -> Array:
            def at(t: Array) -> Array:
                moved = [leaf + t * along for leaf, along in zip(leaves, directions, strict=True)]
                return inner_product(y_bars, self.problem.function(moved))[0]

            return jax.lax.map(at, jnp.asarray(DIFFERENCE_STEPS))

        program = quick_jit(pulled)
        for point in points:
            directions = [random.normal(size=np.shape(x)) * np.where(x == 0, 1, np.abs(x)) for x in point.leaves]
            with jax.enable_x64(True):
                y = np.asarray(program(point.leaves, point.y_bars, directions))
            slopes = (y[1:] - y[0]) / DIFFERENCE_STEPS[1:]  # to the right and to the left, for two steps
            pairs = zip(point.found.hand, directions, strict=True)
            of_formula = np.concatenate([bar.reshape(-1) * along.reshape(-1) for bar, along in pairs])
            off = np.abs(np.mean(slopes[2:]) - np.sum(of_formula))
            is_clear = off > UNLIKE * (np.sum(np.abs(of_formula)) + np.abs(np.mean(slopes[2:])))
            if is_clear and np.ptp(slopes) < off / 4:  # not at a kink, and not because of rounding
                found.append(point)
        return found[:MOST_JUDGED]

    @np.errstate(all="ignore")
    def _by_arbiter(self, point: FurtherPoint) -> tuple[list[Verdict], bool]:
        """The verdicts on what the arbiter finds wrong at a point, and whether the function is differentiable there.

        All elements that are not at a kink are moved together, too. At equal elements, all partial derivatives may
        exist but no derivative: of the mean of the largest and the smallest element, for example. If a single element
        is at a kink, a formula may take a value between the slopes on both sides. It is wrong if it is farther outside
        of them than they are apart.
        """
        random, function = np.random.default_rng(0), self._judged_function(point.leaves)
        pulled = lambda leaves: inner_product(point.y_bars, function(leaves))  # noqa: E731

        def beside(t: Array | float) -> Leaves:
            return [leaf + t * step.reshape(np.shape(leaf)) for leaf, step in zip(point.leaves, steps, strict=True)]

        reference = reference_jacobian(pulled, point.leaves, _doubts(point.found))
        steps = [random.normal(size=bars.shape) for bars in point.found.hand]
        kinks = [np.zeros(step.shape, bool) for step in steps]
        for kink, columns, found in zip(kinks, reference.columns, reference.kink, strict=True):
            kink[:, columns] = found
        steps = [np.where(kink, 0.0, step) for kink, step in zip(kinks, steps, strict=True)]
        along = lambda t: pulled(beside(t[0]))  # noqa: E731
        together = reference_jacobian(along, [np.zeros(())], [np.zeros((2, 1))])
        rest, allowed = together.values[0].item(), together.error[0].item()
        compared = [self._with_arbiter(point.found, reference, n)[0].with_usable_scale() for n in range(len(steps))]
        for values, step in zip(compared, steps, strict=True):
            error = values.arbiter_error + HALF * values.scale + values.narrow
            rest -= np.sum(values.arbiter * step, where=step != 0)
            allowed += np.sum(error * np.abs(step), where=step != 0)
        is_alone = sum(map(np.sum, kinks)) == 1
        is_smooth = not together.kink[0].any() and abs(rest) <= allowed < np.inf
        judged = partial(self._verdict, transform="drawn", tolerance=HALF, reference=reference.name, note=DOMAIN)
        judged = partial(judged, regime=self._shown(point))
        verdicts = []
        for name, values, kink in zip(self.problem.names, compared, kinks, strict=True):
            error = np.where(kink, 3.0, 1.0) * values.arbiter_error  # at a kink, half of the distance of the slopes
            values = replace(values, arbiter_error=error)
            # NaN is wrong only where the arbiter knows the derivative, and jax.grad gives a number. If jax.grad gives
            # NaN too, as for 0 / 0 in the derivative of a norm at 0, the formula is not meant for this point.
            is_known = ~kink & (error <= np.maximum(HALF * values.scale, values.underflow))
            is_known &= np.isfinite(values.automatic)
            counted = (np.isfinite(values.hand) | is_known) & np.where(kink, is_alone, is_smooth)
            verdicts.append(judged(name, values.only_at(counted)))
        return [verdict for verdict in verdicts if verdict.outcome == "fail"], is_smooth and not any(map(np.any, kinks))

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

        Differences are measured relative to the largest derivative by each leaf. After the point itself, the first
        number of each leaf becomes large, with both signs: a quantile or a bound on the deviation needs many numbers.

        Args:
            regime: the name of this point in the verdicts.

        Returns:
            The verdicts. None if the function is not meant for this point: a result is not finite, or an index lies
            beyond the end of an array.
        """
        passes = self.problem.pullback, partial(values_and_pullback, self.problem)
        with jax.enable_x64(True):
            program = quick_jit(lambda *arrays: [pulled_back(*arrays) for pulled_back in passes])
            verdicts = self._of_same_shapes(program, self.problem.leaves, regime)
            if verdicts is None:
                return None
            for sign, suffix in ((1, "one large number"), (-1, "one large negative number")):
                if not has_failed(verdicts):
                    leaves = [_with_outlier(leaf, sign * OUTLIER) for leaf in self.problem.leaves]
                    leaves = self.problem.domain(leaves) if self.problem.domain else leaves
                    verdicts += self._of_same_shapes(program, leaves, f"{regime}, {suffix}") or []
        return verdicts

    def _reads_beyond_the_end(self) -> bool:
        """Whether the function uses an index beyond the end of an axis of length 1, as x[1]. JAX takes the last one."""
        if not any(1 in np.shape(leaf) for leaf in self.problem.leaves):
            return False
        checked = checkify.checkify(self.problem.function, errors=checkify.index_checks)
        return quick_jit(checked)(self.problem.leaves)[0].get() is not None

    def _of_same_shapes(self, program: Callable[..., PyTree], leaves: Leaves, regime: str) -> list[Verdict] | None:
        """The verdicts at one point; None if the function is not meant for it."""
        found, (y, automatic) = program(leaves, self.y_bars)
        if not all(np.isfinite(np.asarray(part)).all() for part in y):
            return None
        verdicts = []
        for name, *sources in zip(self.problem.names, found, automatic, strict=True):
            hand, right = (np.asarray(bars).reshape(1, -1) for bars in sources)
            # Where neither has a number, the formula is not meant for this point.
            hand, right = (np.where(np.isfinite(hand) | np.isfinite(right), bars, 0.0) for bars in (hand, right))
            exact, scale = np.zeros_like(right), np.full_like(right, np.max(np.abs(right), initial=0))
            values = ComparedValues(hand, right, right, exact, scale, UNDERFLOW["float64"], exact)
            known = {"transform": "drawn", "reference": "jax.vjp", "tolerance": HALF, "regime": regime}
            verdicts.append(self._verdict(name, values, **known))
        if all(verdict.outcome == "pass" for verdict in verdicts):
            return verdicts
        if self._reads_beyond_the_end():
            return None
        # Nobody has chosen this point, so digits that are lost in tails do not count.
        found = self.first_order(leaves, regime=regime)
        verdicts = [verdict for verdict in found if verdict.outcome == "fail" and verdict.unit != "relative"]
        if not verdicts or leaves is self.problem.leaves:
            return verdicts
        # Nobody has chosen this point, so digits that the formula loses by rounding do not count.
        point = FurtherPoint(leaves, self.y_bars, self._pullbacks(leaves, self.y_bars), True)
        own = quick_jit(partial(with_rounding, self.problem.pullback))(leaves, self.y_bars).size
        return verdicts if max(point.with_rounding(own).disagreements) > HALF else []

    def _judged_function(self, leaves: Leaves, problem: Problem | None = None) -> Function:
        """The function whose derivative the arbiter computes at a point."""
        function = (problem or self.problem).function
        return with_stopped_as_constants(function, leaves) if self._stop_gradient_as_constant else function

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
        hand, automatic, scale, narrow = (np.asarray(leaves[number]) for leaves in found)
        values, error = automatic.copy(), np.zeros_like(automatic)
        columns = reference.columns[number]
        values[:, columns] = reference.values[number]
        error[:, columns] = reference.error[number]
        # If automatic differentiation is the only source, and not finite, the derivative is not known.
        error[~np.isfinite(values)] = np.inf
        # At a kink, or where automatic differentiation is wrong, it is no reference for all other elements either.
        off = _disagreement(automatic, values, scale + (error + narrow) / TOLERANCES["float64"])
        if reference.kink[number].any() or not np.all(off[:, columns] <= TOLERANCES["float64"]):
            differs = _disagreement(hand, automatic, scale) > TOLERANCES["float64"]
            differs[:, columns] = False
            error[differs] = np.inf
        note = ""
        if len(columns) < values.shape[1]:
            note += f"{len(columns):,} of {values.shape[1]:,} elements were compared with the arbiter, all others with "
            note += "automatic differentiation alone. "
        if (looser := narrow > TOLERANCES["float64"] * scale).any():
            largest = float(np.max(narrow[looser] / scale[looser]))
            note += f"{self.note} So errors up to {largest:.0e} of the terms are allowed in {looser.sum():,} of "
            note += f"{looser.size:,} derivatives. "
        # Elsewhere an infinite error says that the arbiter knows nothing. That excuses no formula.
        at_kink = np.full(values.shape, everywhere)
        at_kink[:, columns] |= reference.kink[number]
        # The scale of automatic differentiation may be 0 there. The larger one-sided derivative takes its place.
        one_sided = at_kink & np.isfinite(error)
        scale = np.where(one_sided, np.fmax(scale, np.abs(values) + error), scale)
        if self._kinks_as_automatic and at_kink.any():
            note += f"{at_kink.sum()} of {at_kink.size} at a kink, where automatic differentiation is declared right. "
            values[at_kink], error[at_kink] = automatic[at_kink], 0
        compared = ComparedValues(hand, automatic, values, error, scale, UNDERFLOW["float64"], narrow)
        return compared, note.strip()

    @property
    def note(self) -> str:
        """A sentence for the reader if the function rounds to types narrower than float64; otherwise empty."""
        return f"The function rounds to {' and '.join(self._narrow_types)}." if self._narrow_types else ""

    def second_order(self, *, regime: str = "normal") -> Iterator[Verdict]:
        """Compares derivatives of the formula in float64: along a direction of the leaves, and one of the cotangent.

        The first is a Hessian-vector product. The second has to be what the formula gives for the direction in place of
        the cotangent, because a pullback is linear. ``first_order`` has compared that with the arbiter.
        """
        leaves = self.problem.leaves
        tolerance = SECOND_ORDER_TOLERANCE
        with jax.enable_x64(True):
            reasons = []
            for derivative in (forward_derivative, reverse_derivative):
                program = quick_jit(partial(second_order, self.problem, derivative))
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
            found = as_rows(derivatives, leaves, 1)
            linear = self._pullbacks(leaves, self.y_directions)
            problem = self.problem._replace(function=self._judged_function(self.problem.leaves))
            reference = reference_second_order(problem, self.y_bars, self.directions, _doubts(found))
        own_rounding = quick_jit(partial(rounding_of_second_order, self.problem, derivative))
        verdicts = []
        for number, name in enumerate(self.problem.names):
            if reference.name == OF_FORMULA and self._formula_outcome[name] == "fail":
                continue  # a wrong formula is no reference
            values, note = self._with_arbiter(found, reference, number, everywhere=self._at_kink)
            judged = partial(self._verdict, name, kind="second order", tolerance=tolerance, regime=regime)
            judged_by_arbiter = partial(judged, reference=reference.name, transform="jit", note=note)
            verdict = judged_by_arbiter(values)
            if verdict.outcome == "fail":
                # JAX's own rules lose digits in the tails, as 1 - tanh² does. That is no mistake of the formula.
                with jax.enable_x64(True):
                    own = np.asarray(own_rounding(leaves, self.y_bars, self.directions)[number])
                verdict = judged_by_arbiter(replace(values, scale=values.scale + own.reshape(1, -1)))
            verdicts.append(verdict)
            right, _, scale, narrow = (np.asarray(of_source[number]) for of_source in linear)
            by_s, exact = np.asarray(by_y_bar[number]).reshape(1, -1), np.zeros_like(right)
            values = ComparedValues(by_s, right, right, exact, scale, UNDERFLOW["float64"], narrow)
            verdict = judged(values, reference="the formula", transform="by y_bar")
            verdicts.append(verdict if verdict.outcome == "pass" else replace(verdict, note=LINEAR))
        yield from verdicts
        if not has_failed(verdicts) and "fail" not in self._formula_outcome.values():
            with jax.enable_x64(True):
                verdicts = self._second_order_elsewhere(program, own_rounding)
            yield from verdicts

    def _second_order_elsewhere(
        self, program: Callable[..., PyTree], own_rounding: Callable[..., Leaves]
    ) -> list[Verdict]:
        """Compares the derivative of the formula with that of automatic differentiation near the further points.

        Where they differ, the arbiter decides. At the points themselves, a number may be at a kink, or be a single one
        where the formula has another branch, such as x = 0 in sin(x) / x. So all numbers are moved a little.
        """
        random, judged = np.random.default_rng(3), 0
        for point in self.further_points:
            leaves = [x + NEARBY * np.where(x == 0, 1, x) * random.uniform(-1, 1, np.shape(x)) for x in point.leaves]
            leaves = self.problem.domain(leaves) if self.problem.domain else leaves
            derivatives, _ = program(leaves, point.y_bars, self.directions, self.y_directions)
            point = point._replace(leaves=leaves, found=as_rows(derivatives, leaves, 1))
            if max(point.disagreements) <= VISIBLE_CHANGE:
                continue
            point = point.with_rounding(own_rounding(leaves, point.y_bars, self.directions))
            is_finite = all(np.isfinite(bars).all() for bars in (*point.found.hand, *point.found.automatic))
            if max(point.disagreements) <= VISIBLE_CHANGE or not is_finite:
                continue
            judged += 1
            problem = self.problem._replace(leaves=leaves, function=self._judged_function(leaves))
            reference = reference_second_order(problem, point.y_bars, self.directions, _doubts(point.found))
            if any(kink.any() for kink in reference.kink):
                continue
            known = {"kind": "second order", "tolerance": HALF, "reference": reference.name, "transform": "jit"}
            judge = partial(self._verdict, regime=self._shown(point), note=DOMAIN, **known)
            compared = (self._with_arbiter(point.found, reference, n)[0] for n in range(len(leaves)))
            verdicts = [judge(name, values) for name, values in zip(self.problem.names, compared, strict=True)]
            if has_failed(verdicts) or judged == MOST_JUDGED:
                return [verdict for verdict in verdicts if verdict.outcome == "fail"]
        return []

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
            in_float64, note = at_points(self._pullbacks, points, bars_of_points), ""
            is_alone = not differ_in_types_alone(self._program, _traced(problem), dtype)
            if is_alone:
                in_float64, note = self._in_type_alone(problem, points, bars_of_points, automatic, in_float64), ALONE
        total = sum(float(np.abs(bars.astype(np.float64)).sum()) for bars in bars_of_points)
        underflow = UNDERFLOW.get(dtype, 0.0) * max(1.0, total)

        @cache
        def condition() -> list[np.ndarray]:
            point = [[np.asarray(array, np.float64) for array in arrays] for arrays in (problem.leaves, y_bars)]
            moved = quick_jit(partial(unavoidable_rounding, self.problem, float(jnp.finfo(dtype).eps)))(*point)
            return [ROUNDED_UNITS * np.asarray(leaf).reshape(1, -1) for leaf in moved]

        for transform, bars in bars_by_transform.items():
            for number, name in enumerate(self.problem.names):
                found, found_automatic = (
                    np.asarray(leaves[number]).astype(np.float64).reshape(len(leaves[number]), -1)
                    for leaves in (bars, automatic)
                )
                hand, other, scale, narrow = (np.asarray(leaves[number]) for leaves in in_float64)
                right, error = self._right_in_float64(name, hand, other, TOLERANCES["float64"] * scale + narrow)
                right, error, scale, narrow = (array[: len(found)] for array in (right, error, scale, narrow))
                # The second point may lie where the function has no value or no derivative. There it does not count.
                counted = np.isfinite(right) & np.asarray(has_values)[: len(found), None]
                counted[0] = True
                right, automatic_bars = np.where(counted, right, 0.0), found_automatic[: len(found)]
                values = ComparedValues(found, automatic_bars, right, error, scale, underflow, narrow).only_at(counted)
                judged = partial(self._verdict, name, dtype=dtype, transform=transform, regime=regime, note=note)
                yield judged(values, reference=f"50 digits, {dtype}" if is_alone else "float64")
                # A formula that is wrong in float64 needs no second verdict.
                if transform == "jit" and not is_alone and self._formula_outcome[name] != "fail":
                    relative = self._relative_in_type(dtype, number, values, problem.leaves, y_bars, condition)
                    if relative is not None:
                        yield judged(relative, unit="relative", tolerance=HALF_OF_DIGITS[dtype])

    def _in_type_alone(
        self, problem: Problem, points: Leaves, y_bars: Leaves, automatic: Leaves, in_float64: Derivatives
    ) -> Derivatives:
        """The derivatives of a function that is another one in this type, in 50 digits, as if by both sources.

        If an operation has no rule, they are those of automatic differentiation in this type. At a kink, they are not
        judged: the formula may have chosen another slope.

        Args:
            problem: the problem in this type.
            points, y_bars: the points and the cotangents.
            automatic: the derivatives by automatic differentiation in this type.
            in_float64: the derivatives in float64, for the scale of errors.
        """
        exact = [np.asarray(leaf).astype(np.float64).reshape(len(leaf), -1) for leaf in automatic]
        errors = list(map(np.zeros_like, exact))
        for row in range(len(points[0])):
            leaves, bars = ([array[row] for array in arrays] for arrays in (points, y_bars))
            function = self._judged_function(leaves, problem)
            doubts = [np.zeros((1, np.size(leaf))) for leaf in leaves]
            try:
                found = exact_jacobian(lambda x, f=function, y=bars: inner_product(y, f(x)), leaves, doubts=doubts)
            except InputError:  # an operation has no rule
                break
            for number, (columns, value, error) in enumerate(
                zip(found.columns, found.values, found.error, strict=True)
            ):
                is_known = np.isfinite(value[0]) & np.isfinite(error[0])
                exact[number][row, columns[is_known]] = value[0, is_known]
                errors[number][row, columns] = np.where(is_known, error[0], UNJUDGED)
        scale = [np.fmax(size, np.abs(right)) for size, right in zip(in_float64.scale, exact, strict=True)]
        narrow = [size + error for size, error in zip(in_float64.narrow, errors, strict=True)]
        return Derivatives(exact, exact, scale, narrow)

    def _relative_in_type(
        self,
        dtype: str,
        number: int,
        values: ComparedValues,
        leaves: Leaves,
        y_bars: Leaves,
        condition: Callable[[], Sequence[np.ndarray]],
    ) -> ComparedValues | None:
        """The values with the size of the derivative as their scale, where digits are lost in a type; otherwise None.

        Only elements count that differ by more than half of the type's digits from the formula in float64. There the
        arbiter computes the exact derivative of ⟨ȳ, f(x)⟩, at the numbers of this type.

        Args:
            dtype: the type.
            number: the index of the leaf.
            values: the values in this type, with those of float64 as the arbiter's.
            leaves: the point x.
            y_bars: the cotangent ȳ.
            condition: computes how far rounding can move the derivatives by each leaf.
        """
        far = relative_error(values.hand - values.arbiter, np.abs(values.arbiter))
        doubts = np.where(needs_relative(values, dtype) & ~(far <= HALF_OF_DIGITS[dtype]), far, 0.0)
        columns = np.argsort(-doubts[0])[: min(MOST_COLUMNS, np.count_nonzero(doubts))]
        if not len(columns):
            return None
        with jax.enable_x64(True):
            leaves, y_bars = ([np.asarray(array, np.float64) for array in arrays] for arrays in (leaves, y_bars))
            function = self._judged_function(leaves)
            product = lambda leaves: inner_product(y_bars, function(leaves))  # noqa: E731
            arbiter, error = values.arbiter.copy(), values.arbiter_error.copy()
            arbiter[:, columns], error[:, columns] = derivatives_at(product, leaves, number, columns)
            values = replace(values, arbiter=arbiter, arbiter_error=error)
            return relative_values(values, columns, lambda columns: condition()[number][:, columns], dtype)

    def _right_in_float64(
        self, name: str, hand: np.ndarray, automatic: np.ndarray, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of two derivatives in float64 is right, and its error. The first row is the problem's own point.

        Args:
            name: the name of the leaf.
            hand, automatic: the derivatives by the formula and by automatic differentiation, (points, elements).
            allowed: how far two right derivatives may differ.
        """
        if self._formula_outcome[name] == "fail":
            return automatic, np.zeros_like(automatic)
        if not self._automatic_is_right[name]:
            return hand, np.zeros_like(hand)
        difference = np.abs(hand - automatic)
        differs = ~(difference <= allowed)  # also where one of them is NaN
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
        tolerance = TOLERANCES["float64"]
        for name, rows, unchanged, *values in zip(self.problem.names, bars, formula, *right, strict=True):
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
        return replace(verdict, index=self._index(leaf, at)) if at else verdict

    def _index(self, leaf: str, at: tuple[int, ...]) -> tuple[int, ...]:
        """The index in the leaf of a column of its Jacobian."""
        shape = np.shape(self.problem.leaves[self.problem.names.index(leaf)])
        return tuple(map(int, np.unravel_index(at[-1], shape)))


def _traced(problem: Problem) -> ClosedJaxpr:
    return jax.make_jaxpr(lambda leaves: list(problem.function(leaves)))(list(problem.leaves))


def _with_outlier(leaf: Array, factor: float) -> np.ndarray:
    """The leaf with another first number: a multiple of its largest one."""
    moved = np.array(leaf, np.float64)
    moved.reshape(-1)[:1] = factor * np.max(np.abs(moved), initial=0)
    return moved


def _disagreement(found: Array, other: Array, scale: Array) -> np.ndarray:
    with np.errstate(all="ignore"):
        return relative_error(found - other, scale)


def _doubts(found: Derivatives) -> list[np.ndarray]:
    """Two reasons to ask the arbiter about an element, as an array (2, size) for each leaf.

    They are how far the formula and automatic differentiation disagree, and how much larger the scale of errors is than
    the derivative. Where it is much larger, terms cancel, so digits may be lost.
    """
    doubts = []
    for hand, automatic, scale, _ in zip(*found, strict=True):
        reasons = _disagreement(hand, automatic, scale), relative_error(scale, np.abs(automatic))
        doubts.append(np.stack([np.max(reason, 0, initial=0) for reason in reasons]))
    return doubts
