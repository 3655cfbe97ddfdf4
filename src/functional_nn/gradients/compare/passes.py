"""A forward and a backward pass that are only called: their comparison with differences, and with a reference."""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError, shown
from functional_nn.core.shapes import Shape
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import as_host_array, check_choice, check_count
from functional_nn.gradients import arbiter
from functional_nn.gradients.compare import problem
from functional_nn.gradients.compare.compared_values import HALF_OF_DIGITS, ComparedValues
from functional_nn.gradients.compare.comparison import LARGE, JacobianComparison
from functional_nn.gradients.compare.error_scale import TOLERANCES
from functional_nn.gradients.compare.jacobians import Derivatives, Pullbacks, automatic_pullback
from functional_nn.gradients.compare.points import (
    MOST_ELEMENTS,
    every_second,
    resized,
    with_repetitions,
    with_smallest,
    without_row,
)
from functional_nn.gradients.compare.problem import DifferentiableLeaves, Leaves, Problem
from functional_nn.gradients.compare.report import Verdict, digits_to_tell_apart, has_failed
from functional_nn.gradients.digits.interpreter import Program
from functional_nn.gradients.digits.numbers import as_numbers, many_digits

Arrays: TypeAlias = Sequence[np.ndarray]
Pass: TypeAlias = Callable[..., PyTree]
Passes: TypeAlias = tuple[Pass, Pass]

GIVEN = "given"
"""The name of the point that the caller gave."""
ONE_BY_ONE, ELSEWHERE = 32, 4
"""How many elements of an array, and of the outputs, are compared one by one: at the given point, and at others."""
SMALLEST_SECOND = 1e-11
"""Second derivatives that are smaller than this share of the largest gradient nearby are not compared."""
LARGE_STEPS = np.array([-2.0, -1.0, 1.0, 2.0])
"""These steps, as multiples of an element, show whether an output changes farther away."""
ALSO_SECOND = 287
"""The length of axes at which second derivatives are compared, too."""
SIZES = (1, 2, 3, 24, 30, 43, 48, 140, 205, 256, ALSO_SECOND, 1028)
"""The lengths of axes that are tried. Divided by 8, they leave each remainder; divided by 4, the long ones do. Code
often works in blocks of 16 to 1,024 numbers, and may choose another way for each power of 2. After blocks of 16, a
length of 24 leaves exactly half of one, and 48 does so after blocks of 32. Of blocks of 32, a length of 256 has eight,
205 a part of a seventh, and 287 all but one of a ninth: 31 numbers, which code may take as 16, 8, 4, 2 and 1. A length
of 1,028 is longer than a block of 1,024. An axis that another one bounds, as a kernel's, may only get a small one."""
BOTH_LONG = (67, 101)
"""The lengths that different axes get at once, in this order and in the other one. Code may take one for the other.
Together they have a whole tile of 64 x 64 elements, and parts of others on both sides and in the corner."""
MOST_OUTPUTS = 400_000
"""Shapes with more outputs than this are left out: they take too long, and too much memory."""
MOST_SECONDS = 0.1
"""Lengths are also left out if a call of the forward pass takes longer: there are about a thousand at each length."""
UNKNOWN = 1e200
"""The error of a derivative about which differences say nothing."""
KNOWN = UNKNOWN / LARGE**2
"""Errors below it, also times large cotangents, are those of known derivatives."""
OTHER_STEPS = (0.7, 0.7 / 8, 0.7 / 64)
"""Where a derivative seems wrong, the differences are computed again, with the usual steps times these factors. At the
given point, only the first factor is used."""
SMALLEST_FACTOR = 1 / 100
"""In a narrow type, the steps are made smaller as long as they are at least the usual ones times this."""
NEARBY = 6
"""Where a derivative seems wrong at another point, the backward pass is also called at this number of points nearby."""
CANCELED = 8
"""An error of so many roundings of the largest derivative does not count."""
DOUBT = 2
"""How far other steps, or points nearby, change a derivative is multiplied by this factor, and counts as an error."""
LOSS_SCALE, TINY = 2.0**20, 2.0**-30
"""The factors of cotangents that are larger than float16 holds, as those of a scaled loss may be, and of tiny ones, as
those of the mean over very many examples."""
DIFFERENCES = "differences of forward"
DIGITS = 50
"""The digits of the values of a reference."""
VALUES = 5
"""How often these values are computed: at the point, and near to it. With few points, changes may cancel at all."""
TOGETHER = "There are too many to move one by one. A small error in one of them may be missed."
SLOW = f"There, one call of forward takes more than {MOST_SECONDS:g} seconds."
AT_KINK = "They are at a kink, where NaN or any value between the slopes on both sides is accepted."
UNCERTAIN = "The differences of forward are too inaccurate there."
WITHOUT_REFERENCE = f"{UNCERTAIN} A reference in jax.numpy can tell more."
REPEATED = (
    "Does a pass draw random numbers, use what an earlier call left behind, or return an array that it does not fill?"
)
CONTIGUOUS = (
    "Only calls with arrays or a y_bar that are not contiguous show this mistake. Does a pass take them for "
    "contiguous, or use memory that it has not filled?"
)


class Precision(NamedTuple):
    """What is judged in a type.

    Args:
        visible: the smallest error that counts, relative to the terms.
        share: this share of the largest terms of an array is added to the terms of each element. Without it, elements
            that lose digits by rounding in a right backward pass would be rejected.
        enough: a derivative is known if the relative error of the differences is at most this.
        factors: the factors of the drawn cotangents.
    """

    visible: float
    share: float
    enough: float
    factors: tuple[float, ...]


PRECISIONS = {
    "float64": Precision(1e-9, 1e-6, 1e-5, (1, LARGE, -LARGE, LOSS_SCALE, TINY)),
    "float32": Precision(1e-4, 1e-2, 1e-2, (1, 3, -3, LOSS_SCALE, TINY)),
    "float16": Precision(0.05, 0.3, 0.05, (1, 3, -3, 1 / 4)),
}

POINTS: dict[str, Callable[[np.ndarray, np.random.Generator, int], np.ndarray]] = {
    "0.3 times the given numbers": lambda x, random, number: 0.3 * x,
    "other signs": lambda x, random, number: -1.7 * x,
    "large numbers": lambda x, random, number: 64 * x,
    "very large numbers": lambda x, random, number: 3e3 * x,
    "small numbers": lambda x, random, number: 1e-3 * x,
    "drawn numbers": lambda x, random, number: random.permutation(np.linspace(-6, 6.3, x.size)).reshape(x.shape),
    "another order": lambda x, random, number: random.permutation(x.reshape(-1)).reshape(x.shape),
    "equal numbers": lambda x, random, number: np.full_like(x, np.sum(x.reshape(-1)[:1])),
    "whole numbers": lambda x, random, number: np.round(2 * random.normal(size=x.shape)),
    "zeros among others": lambda x, random, number: without_row(x * every_second(x.shape, number), number),
    "zeros": lambda x, random, number: x if number else np.zeros_like(x),
    "very large negative numbers": lambda x, random, number: -3e3 * random.uniform(0.5, 1.5, x.shape),
}
"""How the arrays of each other point are made: from a given array, a source of random numbers and the array's number.
Arrays next to each other get their zeros at different places: 0 times 0 would hide errors."""
OTHER_WHOLE_NUMBERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "repeated whole numbers": with_repetitions,
    "equal whole numbers": with_smallest,
    "a row of False": lambda x: without_row(x) if x.dtype == bool else x,
}
"""How whole numbers and flags are changed."""
FEW_POINTS = ("other signs", "drawn numbers")
"""The other points of what takes long: derivatives in 50 digits, and second derivatives."""


def copies_of(arrays: Arrays, number: int = 0, first: Pass = np.copy, others: Pass = np.copy) -> Arrays:
    """Copies of arrays: ``first`` makes those of the first ones, ``others`` those of the rest."""
    return [*map(first, arrays[:number]), *map(others, arrays[number:])]


def written_to(memory: Arrays, arrays: Arrays) -> Arrays:
    """Arrays that are written to the memory of others, and copies of the remaining ones."""
    for held, array in zip(memory, arrays, strict=False):
        held[...] = array
    return [*memory, *copies_of(arrays[len(memory) :])]


class Along(NamedTuple):
    """Derivatives of the outputs along directions, (outputs, directions), each of which moves one array.

    Args:
        directions: (directions, elements of the array). Each of the first ones moves a group of elements, a single one
            if there are few. The last two move all elements: first the sum of the groups, then all by the same step.
        value: the derivatives, or 0.
        error: their errors; at least ``UNKNOWN`` where nothing is known.
        kink: where the outputs have a kink.
        farthest: the largest absolute value of all outputs at all points of the differences.
    """

    directions: np.ndarray
    value: np.ndarray
    error: np.ndarray
    kink: np.ndarray
    farthest: np.ndarray


class Implementation:
    """A forward and a backward pass, called with NumPy arrays, and their comparison by differences.

    Args:
        subject: the name in the verdicts.
        names: the names of the arrays.
        passes: the forward and the backward pass, see ``check_implementation``.
        arrays: the point.
        seed: for drawing cotangents and points.
        kind: the kind of the verdicts.
        fixed: axes of these lengths stay as they are, because constants have these lengths, too.
    """

    def __init__(
        self,
        subject: str,
        names: Sequence[str],
        passes: Passes,
        arrays: Arrays,
        seed: int,
        kind: str,
        fixed: Collection[int] = (),
    ):
        self.subject, self.names, self.seed = subject, list(names), check_count("seed", seed, least=0)
        (self._forward, self._backward), self._kind, self._fixed = passes, kind, fixed
        self.places = [number for number, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.floating)]
        if not any(arrays[place].size for place in self.places):
            given = ", ".join(map(shown, arrays)) or "none"
            raise InputError("arrays", "at least one floating-point number", given, "Give 1.0, not 1.")
        problem.check_finite("arrays", [arrays[place] for place in self.places])
        # Of the last calls of both passes: the arguments before and after, the results themselves, and copies of these.
        self._last_calls: dict[str, tuple[Arrays, Arrays, Arrays, Arrays]] = {}
        self._usual: dict[str, float] = {}  # the largest derivative by each array, at the given point
        self._own_type = str(np.result_type(*(arrays[place] for place in self.places)))
        check_choice("arrays: their type", self._own_type, PRECISIONS)
        self.dtype = self._working_type(arrays)
        self.arrays: Arrays = problem.cast(list(arrays), self.dtype)
        self.skipped: list[tuple[str, str]] = []

    def _working_type(self, arrays: Arrays) -> str:
        """The widest type in which the forward pass computes."""
        own, refusal = self._own_type, None
        # Code in C may write beyond the end of an array of a narrower type, so no such type is tried.
        for dtype in list(PRECISIONS)[: list(PRECISIONS).index(own) + 1]:
            try:
                leaves, own_leaves = (self.outputs(problem.cast(list(arrays), name)).leaves for name in (dtype, own))
            except Exception as error:  # the forward pass refuses this type
                refusal = error
                continue
            y, y_own = flat(leaves), flat(own_leaves)
            if not y.size:
                raise InputError("forward", "a result of floating-point numbers", "none")
            # Code that takes a float64 for two float32 gives other numbers.
            found = np.result_type(*leaves)
            if dtype == "float64" and self._is_rounded(arrays):  # computed in float32, and cast
                found = np.dtype("float32")
            if (dtype == own or _agree(y, y_own, 0.1)) and found.itemsize >= np.dtype(dtype).itemsize:
                return dtype
            if dtype == own:
                remedy = f"If it computes in {found}, give arrays of {found}."
                expected = f"results with the digits of the arrays, which are {own}"
                raise InputError("forward", expected, f"those of {found}", remedy)
        given = f"{type(refusal).__name__}: {refusal}"
        raise InputError("forward", "a function that takes these arrays", given) from refusal

    def _is_rounded(self, arrays: Arrays) -> bool:
        """Whether the results for drawn numbers of float64 have the digits of float32, and more than float16 has."""
        random, drawn = np.random.default_rng(self.seed), problem.cast(list(arrays), "float64")
        for place in self.places:
            drawn[place] = drawn[place] * random.uniform(0.9, 1.1, drawn[place].shape)
        y = flat(self.outputs(drawn).leaves)
        return np.array_equal(y, np.float32(y)) and not np.array_equal(y, np.float16(y))

    def outputs(self, arrays: Arrays, copied: Pass = copies_of) -> DifferentiableLeaves:
        """Calls the forward pass with copies of the arrays."""
        copies = copied(arrays)
        with np.errstate(all="ignore"):
            y = self._forward(*copies)
        y = jax.tree.map(partial(as_host_array, "forward"), y)
        self._remember("forward", arrays, copies, y)
        return problem.differentiable_leaves(y)

    def _remember(self, function: str, arrays: Arrays, copies: Arrays, results: PyTree) -> None:
        """Keeps what a pass was called with, and what it has returned."""
        returned = jax.tree.leaves(results)
        self._last_calls[function] = arrays, copies_of(copies), returned, copies_of(returned)

    def pulled_back(
        self, arrays: Arrays, y: DifferentiableLeaves, row: np.ndarray, regime: str = GIVEN, copied: Pass = copies_of
    ) -> Arrays:
        """Calls the backward pass with copies, and gives the flat cotangents of the floating-point arrays.

        Args:
            arrays: the point.
            y: what the forward pass gives there.
            row: the cotangent of all outputs, as one vector.
            regime: the name of the point, for an error.
            copied: makes the copies of the arrays and the cotangents.
        """
        where = "backward" if regime == GIVEN else f"backward ({regime})"
        parts = np.split(row, np.cumsum([leaf.size for leaf in y.leaves])[:-1])
        y_bars = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, y.leaves, strict=True)]
        copies = copied([*arrays, *y_bars])
        try:
            with np.errstate(all="ignore"):
                bars = self._backward(*copies[: len(arrays)], y.join_cotangents(copies[len(arrays) :]))
        except InputError:
            raise
        except Exception as error:
            expected = f"cotangents of {', '.join(map(shown, arrays))}, which forward takes"
            raise InputError(where, expected, f"{type(error).__name__}: {error}") from error
        bars = jax.tree.map(partial(as_host_array, where), tuple(bars) if isinstance(bars, list) else bars)
        self._remember("backward", [*arrays, *y_bars], copies, bars)
        inputs = problem.differentiable_leaves(tuple(arrays), self.names)
        bars = problem.one_of_each(bars, self.names, where)
        return [flat([bar]) for bar in problem.bars_of(bars, inputs, where)]

    def verdicts(self, other_points: bool) -> list[Verdict]:
        """Judges the backward pass at the given point, then at others, until one fails."""
        found = self._at(GIVEN, self.arrays)
        for regime, arrays in self.points() if other_points and not has_failed(found) else ():
            if self._kind != "vjp" and regime not in FEW_POINTS and not regime.endswith(f" {ALSO_SECOND}"):
                continue
            try:
                found += [] if has_failed(found) else self._at(regime, arrays)
            except InputError as error:
                if not error.__cause__:
                    raise
                self.skipped.append((f"the point with {regime}", f"The backward pass raises {error.given}."))
        # An element that was unknown at the given point may be known at another one.
        known = {verdict.leaf for verdict in found if verdict.outcome != "inconclusive"}
        return [verdict for verdict in found if verdict.outcome != "inconclusive" or verdict.leaf not in known]

    def points(self) -> Iterator[tuple[str, Arrays]]:
        """Other points, each with a name: other numbers, then other lengths of all axes that have the same length."""
        random = np.random.default_rng(self.seed)
        leaves = [self.arrays[place] for place in self.places]
        for regime, recipe in POINTS.items():
            yield regime, self.moved([recipe(leaf.astype(float), random, number) for number, leaf in enumerate(leaves)])
        for regime, change in OTHER_WHOLE_NUMBERS.items():
            changed = [x if place in self.places else change(x) for place, x in enumerate(self.arrays)]
            if any(not np.array_equal(one, x) for one, x in zip(changed, self.arrays, strict=True)):
                yield regime, self.moved(leaves, changed)
        lengths = dict.fromkeys(length for x in self.arrays for length in x.shape)
        free = [length for length in lengths if length and length not in self._fixed]
        changes: list[dict[int, int]] = [{length: size} for length, size in product(free, SIZES) if size != length]
        for order in (BOTH_LONG, BOTH_LONG[::-1]) if len(free) > 1 else ():
            changes.append({length: order[number % 2] for number, length in enumerate(free)})
        for change in changes:
            shapes = [tuple(change.get(int(old), int(old)) for old in x.shape) for x in self.arrays]
            if max(math.prod(shape) for shape in shapes) > MOST_ELEMENTS:
                continue
            others, size = [], min(change.values())
            for number, (x, new) in enumerate(zip(self.arrays, shapes, strict=True)):
                x = resized(x, new, random)
                if x.dtype.kind in "iu":  # these may be indices into the axis, so they become smaller with it
                    x = np.minimum(x, min(size - 1, np.iinfo(x.dtype).max))
                elif size > 256 and size in new and number in self.places:
                    x = np.sort(x, new.index(size))  # the largest of many has an index that is too large for a byte
                others.append(x)
            y = self.defined(others, self.dtype)
            if y and flat(y.leaves).size <= MOST_OUTPUTS:
                regime = " and ".join(f"axes of length {old} with length {new}" for old, new in change.items())
                if min(timeit.repeat(partial(self.defined, others, self.dtype), repeat=2, number=1)) > MOST_SECONDS:
                    self.skipped.append((f"the point with {regime}", SLOW))
                else:
                    yield regime, others

    def moved(self, leaves: Leaves, arrays: Arrays = ()) -> Arrays:
        """The arrays of the point, or others, with these floating-point numbers."""
        whole = problem.differentiable_leaves(list(arrays or self.arrays))
        return whole.join([np.asarray(leaf).astype(self.dtype) for leaf in leaves])

    def defined(self, arrays: Arrays, dtype: str) -> DifferentiableLeaves | None:
        """What the forward pass gives in a type; None if it refuses, or gives no numbers, or one that is not finite."""
        try:
            y = self.outputs(problem.cast(arrays, dtype))
        except Exception:
            return None
        is_own = dtype == self.dtype or all(leaf.dtype == dtype for leaf in y.leaves)
        numbers = flat(y.leaves)
        return y if is_own and numbers.size and np.isfinite(numbers).all() else None

    def _at(self, regime: str, arrays: Arrays) -> list[Verdict]:
        """Judges the backward pass at one point, in the type of the differences and in that of the given arrays.

        There are no verdicts where the forward pass is not defined.

        Args:
            regime: the name of the point.
            arrays: the point, in the type of the differences.
        """
        y_by_type = {dtype: self.defined(arrays, dtype) for dtype in dict.fromkeys([self.dtype, self._own_type])}
        y = y_by_type[self.dtype]
        if y is None and regime == GIVEN:
            raise InputError("forward", "finite numbers at the given point", "NaN or infinity")
        if y is None:
            return []
        if regime != GIVEN and self.dtype != "float64":
            # There may be nothing but rounding in the values, as in those of x / std(x) for equal numbers.
            near = self.defined(self._nearby(arrays, self.dtype, 1), self.dtype)
            usual = np.max(np.abs(flat(self.outputs(self.arrays).leaves)), initial=0)
            if near is None or not _agree(flat(near.leaves), flat(y.leaves), 0.1, usual):
                return []
        # The differences come first: a backward pass that uses what the last forward pass left behind is then wrong.
        most = ONE_BY_ONE if regime == GIVEN else ELSEWHERE
        along = [self._along(arrays, place, most, flat(y.leaves)) for place in self.places]
        found = []
        for dtype, y_in_type in y_by_type.items():
            visible = PRECISIONS[dtype].visible
            if y_in_type and not has_failed(found) and _agree(flat(y_in_type.leaves), flat(y.leaves), visible):
                found += self._in_type(dtype, regime, arrays, y_in_type, along)
        return found

    def _in_type(
        self, dtype: str, regime: str, arrays: Arrays, y: DifferentiableLeaves, along: Sequence[Along]
    ) -> list[Verdict]:
        """Judges the backward pass at one point in one type.

        Args:
            dtype: the type in which both passes are called.
            regime: the name of the point.
            arrays: the point, in the type of the differences.
            y: the outputs of the forward pass in this type.
            along: the differences of the forward pass, by each array.
        """
        precision, is_given = PRECISIONS[dtype], regime == GIVEN and dtype == self.dtype
        most, size = ONE_BY_ONE if regime == GIVEN else ELSEWHERE, flat(y.leaves).size
        narrow = problem.cast(arrays, dtype)
        along = list(along)
        random, factors = np.random.default_rng(self.seed), np.reshape(precision.factors, (-1, 1))
        drawn = factors * (np.round(random.normal(size=(len(factors), size)) * 64) + 0.5) / 64
        basis = np.unique(np.linspace(0, size - 1, most).astype(int))[:, None] == np.arange(size)
        balanced = flat([_with_sum_0(leaf.shape) for leaf in y.leaves])[None]
        rows = np.concatenate([basis, np.full((1, size), -2.5), balanced, drawn])
        calls = [(row, self.pulled_back(narrow, y, row, regime)) for row in rows]
        calls += self._strided(narrow, y, rows[[len(basis), -1]]) if regime == GIVEN else []
        all_rows, held = np.stack([row for row, _ in calls]), dict(self._last_calls)
        # A cache may know an array by its address. So the second calls get memory that held the given numbers before.
        has_given_shapes = [x.shape for x in narrow] == [x.shape for x in self.arrays]
        before = problem.cast(self.arrays, dtype) if has_given_shapes else narrow
        memory = partial(written_to, copies_of(before))
        y_before = self.outputs(before, memory)
        self.pulled_back(before, y_before, flat(y_before.leaves), regime, memory)
        bars_again = self.pulled_back(narrow, y, rows[-1], regime, memory)
        again = [flat(self.outputs(narrow, memory).leaves), *bars_again]
        found = self._about_calls([flat(y.leaves), *calls[len(rows) - 1][1]], again, precision, held)
        judged = partial(self._judged, outputs=y.leaves, dtype=dtype, is_given=regime == GIVEN)
        for number, place in enumerate(self.places):
            name, hand = self.names[place], np.stack([bars[number] for _, bars in calls])
            verdict = judged(name, hand, all_rows, along[number], hand[None])
            if verdict.outcome == "fail":
                along[number] = self._confirmed(arrays, place, flat(y.leaves), regime)
                seeds = range(1, NEARBY + 1) if regime != GIVEN else [0]
                moved = [self._nearby(arrays, dtype, seed) for seed in seeds]
                near = np.stack([[self.pulled_back(x, y, row, regime)[number] for row in all_rows] for x in moved])
                verdict = judged(name, hand, all_rows, along[number], near)
                contiguous = judged(name, hand[: len(rows)], rows, along[number], near[:, : len(rows)])
                if verdict.outcome == "fail" != contiguous.outcome:
                    verdict = replace(verdict, note=CONTIGUOUS)
            if is_given:
                self._skip_unknown(name, along[number], max(np.max(np.abs(one.value), initial=0) for one in along))
            if is_given and verdict.outcome == "pass":  # the report then says how many digits are right
                verdict = replace(verdict, tolerance=TOLERANCES[dtype])
            if (
                verdict.index and verdict.hand is not None and not np.isfinite(verdict.hand)
            ):  # it may be 0, or very large
                number_there = arrays[place].flat[verdict.index] + 0.0  # 0 in place of -0
                verdict = replace(verdict, note=f"{verdict.note} This element of {name} is {number_there:.6g}.")
            if is_given or verdict.outcome != "inconclusive":
                found.append(replace(verdict, index=_index(verdict.index, arrays[place].shape)))
        return [replace(verdict, dtype=dtype, regime=regime) for verdict in found]

    @np.errstate(all="ignore")
    def _along(self, arrays: Arrays, place: int, most: int, y: np.ndarray, factor: float = 1.0) -> Along:
        """Differences of the forward pass by one array.

        Args:
            arrays: the point.
            place: the place of the array.
            most: the largest number of groups.
            y: the outputs, as one vector.
            factor: of the usual steps.
        """
        x = arrays[place].astype(np.float64).reshape(-1)
        groups = min(most, x.size)
        random, number_of_group = np.random.default_rng(place), np.arange(x.size) * groups // max(x.size, 1)
        sizes = 2.0 ** np.round(np.log2(np.maximum(np.abs(x), 1.0)))
        together = sizes * random.choice([-1.0, 1.0], x.size)
        directions = (number_of_group == np.arange(groups)[:, None]) * together
        directions = np.concatenate([directions, together[None], np.full((1, x.size), np.max(sizes, initial=1))])
        steps = arbiter.STEPS if self.dtype == "float64" else arbiter.FLOAT32_STEPS
        steps = steps._replace(dtype=np.dtype(self.dtype).type, usual=factor * steps.usual, small=factor * steps.small)
        moved = arbiter.difference_points(np.zeros(len(directions)), steps)
        points = np.concatenate([moved, np.tile(LARGE_STEPS[:, None], len(directions))])
        outputs = np.full((len(points), y.size, len(directions)), np.nan)
        for point, column in np.ndindex(points.shape):
            changed = list(arrays)
            leaf = x + points[point, column] * directions[column]
            changed[place] = leaf.reshape(arrays[place].shape).astype(self.dtype)
            result = self.defined(changed, self.dtype)
            if result:
                outputs[point, :, column] = flat(result.leaves)
        # Numbers of this size may be rounded inside of forward, as the 1 in 1 - tanh². Beside them, a derivative may be
        # too small to be seen.
        largest = np.max(np.abs(outputs), initial=np.max(np.abs(y), initial=0), where=np.isfinite(outputs))
        value, error, kink, doubtful = arbiter.extrapolated(outputs[: len(moved)], moved, steps, largest)
        error += np.where(value == 0, np.finfo(steps.dtype).eps * largest, 0.0)
        if self._kind != "vjp":  # forward is a gradient here, which often has lost digits itself
            error += SMALLEST_SECOND * min(np.max(np.abs(y), initial=1), largest)
        is_known, is_zero = error < np.inf, (np.abs(value) <= error) & ~kink
        error = np.where(is_known, error + np.where(is_zero, np.abs(value), 0.0), UNKNOWN)
        value = np.where(is_known & ~is_zero, value, 0.0)
        # Where an output has a derivative, those along groups add up. At ties of a sorted array they do not. Then there
        # is one along the last direction only, which keeps equal numbers equal.
        of_groups, of_sum = error[:, :groups].sum(1), np.where(kink[:, groups], -error[:, groups], error[:, groups])
        apart = np.abs(value[:, :groups].sum(1) - value[:, groups]) - of_sum - 2 * of_groups
        terms = np.abs(value[:, :groups]).sum(1)
        error[apart > PRECISIONS[self.dtype].visible * terms, :-1] = UNKNOWN
        # The largest step of each direction is 1 from here on, so a single element gives its derivative.
        steps_to = np.copysign(np.max(np.abs(directions), 1, initial=1), directions.sum(1))
        directions, value, error = directions / steps_to[:, None], value / steps_to, error / np.abs(steps_to)
        along = Along(directions, value, error, kink, np.full(value.shape, largest))
        if self.dtype == "float64" or factor < SMALLEST_FACTOR or not (doubtful | (error > KNOWN)).any():
            return along
        # Numbers far from 0 that are close together, as 500 ± 1: relative to their size, the usual steps are too large.
        finer = self._along(arrays, place, most, y, factor / 8)
        differs = (finer.error > KNOWN) | (np.abs(value - finer.value) > error + finer.error)
        too_large = doubtful & differs
        # Where the steps are too large for one derivative, all others are finer too, but at kinks that both find.
        is_finer = too_large | (error > KNOWN) | (too_large.any() & ~(kink & finer.kink))
        pairs = zip(finer[1:], along[1:], strict=True)
        return Along(directions, *(np.where(is_finer, *pair) for pair in pairs))

    def _confirmed(self, arrays: Arrays, place: int, y: np.ndarray, regime: str) -> Along:
        """Differences with other steps. At another point than the given one, those with all steps have to agree."""
        factors = OTHER_STEPS[:1] if regime == GIVEN else OTHER_STEPS
        first, *others = (self._along(arrays, place, ONE_BY_ONE, y, factor) for factor in factors)
        errors = [other.error + np.abs(other.value - first.value) for other in others]
        return first._replace(error=np.max([first.error, *(DOUBT * error for error in errors)], 0))

    def _nearby(self, arrays: Arrays, dtype: str, seed: int) -> Arrays:
        """A point where all numbers are a little different, by the root of the distance from 1 to the next one.

        With a seed other than 0, this holds for zeros too. Then no two numbers are equal.
        """
        random, change = np.random.default_rng(seed), np.sqrt(np.finfo(dtype).eps)
        leaves = []
        for place in self.places:
            leaf = arrays[place].astype(float)
            size = np.where(leaf == 0, (np.max(np.abs(leaf), initial=0) or 1) if seed else 0, np.abs(leaf))
            leaves.append(leaf + change * size * random.uniform(-1, 1, leaf.shape))
        return problem.cast(self.moved(leaves, arrays), dtype)

    def _strided(self, arrays: Arrays, y: DifferentiableLeaves, rows: np.ndarray) -> list[tuple[np.ndarray, Arrays]]:
        """Calls of backward where arrays, cotangents, or both are not contiguous: each cotangent and what it gives.

        Calls that a pass refuses are left out.
        """
        axes = range(max(array.ndim for array in (*arrays, *y.leaves)) - 1)
        ways = [partial(strided_copy, -1), partial(strided_copy, -2), *(partial(with_last_in_memory, n) for n in axes)]
        # Numbers that are equal along the first axis only, as those that a sum over a batch passes back.
        equal = [np.resize(rows[-1][: math.prod(leaf.shape[1:])], leaf.shape) for leaf in y.leaves]
        found, refused = [], None
        for way, row in product(ways, [*rows, flat(equal)]):
            for of_arrays, of_bars in ((way, np.copy), (np.copy, way), (way, way)):
                copied = partial(copies_of, number=len(arrays), first=of_arrays, others=of_bars)
                try:
                    if not _agree(flat(self.outputs(arrays, copied).leaves), flat(y.leaves), 0.01):
                        raise ValueError("forward gives other numbers")
                    found.append((row, self.pulled_back(arrays, y, row, copied=copied)))
                except Exception as error:
                    refused = getattr(error, "given", error)
        if refused:
            self.skipped.append(("arrays that are not contiguous", f"A pass does not take all of them: {refused}."))
        return found

    @np.errstate(all="ignore")
    def _judged(
        self,
        name: str,
        hand: np.ndarray,
        rows: np.ndarray,
        along: Along,
        near: np.ndarray,
        *,
        outputs: Leaves,
        dtype: str,
        is_given: bool,
    ) -> Verdict:
        """Compares cotangents of one array with differences. Elements that these do not know well enough are left out.

        Args:
            name: the name of the array.
            hand: the cotangents by the backward pass, (rows, elements).
            rows: the cotangents of the outputs.
            along: the differences.
            near: the cotangents at points very near to this one, (points, rows, elements).
            outputs: what the forward pass gives.
            dtype: the type of the backward pass.
            is_given: whether this is the given point. At others, derivatives that are all 0 do not pass.
        """
        groups, precision, limits = len(along.directions) - 2, PRECISIONS[dtype], np.finfo(dtype)
        if not is_given and dtype != self.dtype:
            # Nobody has chosen this point, so digits that the type loses by rounding or underflow do not count.
            lost = arbiter.ROUNDINGS * limits.eps * np.abs(flat(outputs))[:, None] + limits.tiny
            along = along._replace(error=along.error + lost * np.max(np.abs(along.directions), 1))
        found = np.nan_to_num(hand) @ along.directions.T
        rounding = arbiter.ROUNDINGS * np.sqrt(limits.eps) * np.nan_to_num(np.abs(near[0] - hand))
        right, error = rows @ along.value, np.abs(rows) @ along.error + rounding @ np.abs(along.directions).T
        # Terms of the usual size may cancel. At other points, this may leave nothing but rounding everywhere.
        largest = np.max(np.abs(along.value[:, :groups]), initial=0)
        if is_given:
            self._usual[name] = max(self._usual.get(name, 0.0), largest)
        share = CANCELED * limits.eps * max(largest, self._usual[name])
        share += 0 if largest else precision.visible * self._usual[name]
        error += share * np.abs(rows).max(1, keepdims=True) * np.abs(along.directions).sum(1)
        # Along these directions, the slope is not the same at all points nearby: forward has a kink, or is degenerate.
        error += DOUBT * np.ptp(np.nan_to_num(near) @ along.directions.T, 0)
        # At a kink, or where the slope is infinite, there is no derivative. Then NaN is not wrong.
        is_singular = np.any(along.kink | (along.error >= UNKNOWN), 0)
        is_singular[groups:] |= is_singular[:groups].any()
        is_nan = ~np.isfinite(hand) @ (along.directions != 0).T
        found = np.where(is_nan, np.where(is_singular, right, np.nan), found)
        terms = np.abs(rows) @ np.abs(along.value)
        # Along the last directions, the terms of all elements are added, and may cancel.
        usual = np.mean(terms[:, :groups], 1, keepdims=True)
        terms[:, groups:] += (usual + np.nan_to_num(np.abs(hand))) @ np.abs(along.directions[groups:]).T
        # At other points, smaller terms have to be right to fewer digits.
        share = precision.share ** (1 / 2 if len(near) > 1 else 1)
        scale = terms + share * np.max(terms, 1, keepdims=True, initial=0)
        wrong = (error < KNOWN) & ~(np.abs(found - right) - error <= precision.visible * scale)
        if wrong[:, :groups].any():
            wrong[:, groups:] = False  # a single element says more
        known = error <= precision.enough * scale
        # If the outputs do not change at all, as far as can be told, their derivative is 0. They may be 0, as those of
        # relu, so the error is compared with what they are farther away.
        known |= (found == 0) & (right == 0) & (error <= precision.enough * np.abs(rows) @ along.farthest)
        template = Verdict(self.subject, name, "inconclusive", 0.0, precision.visible, self._kind)
        at_zero = is_given and not is_singular.all() and known[:, ~is_singular].all()
        if not (known & ((found != 0) | (right != 0))).any() and not at_zero:
            known[:] = False  # that some derivatives are 0 says nothing about those that are not known
        error = np.where((found == 0) & (right == 0), 0.0, error)  # both may give 0 where all terms are 0
        verdict, at = _at_worst(template, wrong | known, found, right, error, scale)
        if wrong.any():
            verdict = replace(verdict, outcome="fail")
        elif known.any():  # what differences cannot tell is allowed
            allowed = template.tolerance + verdict.error + verdict.reference_error
            verdict = replace(verdict, outcome="pass", tolerance=allowed)
        else:  # where all terms are 0, the relative error is given as 0
            verdict = replace(verdict, outcome="inconclusive", reference_error=verdict.reference_error or np.inf)
        steps = along.directions[at[1]]
        moved = np.flatnonzero(steps)
        index, note = tuple(moved.tolist()) if len(moved) == 1 else (), ""
        if verdict.outcome == "fail":
            listed = ", ".join(f"{step:g}" for step in steps[moved[:8]]) + ", ..." * (len(moved) > 8)
            together = f"Elements {moved[0]} to {moved[-1]} of the flat array are moved together by {listed}: "
            note = "" if index else together + "this is the sum of their derivatives times these steps. "
            bar = "y_bar" if self._kind == "vjp" else "the cotangent of the gradient"
            note += f"Here {bar}{_about_cotangent(rows[at[0]], outputs)}"
        return replace(verdict, reference=DIFFERENCES, index=index, note=note)

    def _about_calls(
        self, first: Arrays, second: Arrays, precision: Precision, held: dict[str, tuple[Arrays, ...]]
    ) -> list[Verdict]:
        """Judges two calls with the same arrays, whether calls change their arguments, and the results of earlier ones.

        Args:
            first, second: what the two calls have returned.
            precision: that of the type.
            held: the last calls before the second one, see ``_last_calls``.
        """
        notes = []
        for function, (*_, returned, copies) in held.items():
            if not all(map(partial(np.array_equal, equal_nan=True), returned, copies)):
                notes.append(
                    ("", f"A call of {function} changes what an earlier call has returned. Let it return new arrays.")
                )
        for name, one, two in zip(["y", *(self.names[place] for place in self.places)], first, second, strict=True):
            size = np.max(np.abs(one), where=np.isfinite(one), initial=0)
            one, two = np.nan_to_num(one), np.nan_to_num(two)
            differs = np.flatnonzero(np.abs(one - two) > precision.visible * size)
            if differs.size:
                once, again = float(one[differs[0]]), float(two[differs[0]])
                digits = digits_to_tell_apart(once, again)
                given = f"{once:.{digits}g} and {again:.{digits}g}"
                notes.append((name, f"Two calls with the same arrays give {given}. {REPEATED}"))
        for function, (before, after, *_) in self._last_calls.items():
            for name, old, new in zip((*self.names, *["y_bar"] * len(before)), before, after, strict=False):
                if not np.array_equal(old, new, equal_nan=True):
                    notes.append((name, f"{function} changes its argument {name}. Let it compute with a copy."))
        return [Verdict(self.subject, name, "fail", np.inf, 0.0, kind="call", note=note) for name, note in notes]

    def _skip_unknown(self, name: str, along: Along, largest: float) -> None:
        """Adds to ``skipped`` which elements of an array were not compared, or not one by one.

        Args:
            name: the name of the array.
            along: the differences by it.
            largest: the largest derivative by any array.
        """
        size, groups = along.directions.shape[1], len(along.directions) - 2
        error, kink = along.error[:, :groups], along.kink[:, :groups].any(0)
        unknown = (error > PRECISIONS[self.dtype].enough * largest).any(0) & ~kink
        parts = "elements"
        if size > groups:
            parts = "groups of elements"
            self.skipped.append((f"single elements of {name}: {size:,} were moved in {groups} groups", TOGETHER))
        uncertain = WITHOUT_REFERENCE if self._kind == "vjp" else UNCERTAIN
        for reason, count in ((AT_KINK, kink.sum()), (uncertain, unknown.sum())):
            if count:
                self.skipped.append((f"{count} of {groups} {parts} of {name}", reason))


class PullbacksOfBoth(Pullbacks):
    """Pulls cotangents back by the backward pass of an implementation and by automatic differentiation of a reference.

    Args:
        reference: the reference.
        implementation: the forward and the backward pass.
    """

    def __init__(self, reference: Problem, implementation: Implementation):
        super().__init__(reference)
        self._implementation = implementation

    def _rows(self, leaves: Leaves, y_bars: list[np.ndarray]) -> list[Derivatives]:
        found, implementation = super()._rows(leaves, y_bars), self._implementation
        arrays = implementation.moved(leaves)
        rows = np.concatenate([bar.reshape(len(bar), -1) for bar in y_bars], 1)
        try:
            y = implementation.outputs(arrays)
            bars = list(zip(*(implementation.pulled_back(arrays, y, row) for row in rows), strict=True))
        except Exception:  # such as for a singular matrix; at the given point, it has been raised before
            return [leaf._replace(hand=np.full_like(leaf.hand, np.nan)) for leaf in found]
        return [self._beside(np.stack(bar), leaf) for bar, leaf in zip(bars, found, strict=True)]

    def _beside(self, hand: np.ndarray, leaf: Derivatives) -> Derivatives:
        """The cotangents of one array by the backward pass, beside the derivatives of the reference."""
        dtype, scale = self._implementation.dtype, np.asarray(leaf.scale)
        if dtype == "float64":
            return leaf._replace(hand=hand)
        largest = np.max(scale, 1, keepdims=True, where=np.isfinite(scale), initial=0)
        terms = np.where(scale == 0, 0, scale + PRECISIONS[dtype].share * largest)
        return leaf._replace(hand=hand, narrow=leaf.narrow + TOLERANCES[dtype] * terms)


class ReferenceComparison(JacobianComparison):
    """The comparison of an implementation with a reference that JAX can trace, and with its derivative in 50 digits.

    Args:
        implementation: the forward and the backward pass.
        reference: ``reference(*arrays) -> y`` in ``jax.numpy``.
        other_points: whether both passes may be called at other points.
    """

    any_slope_at_kinks = True

    def __init__(self, implementation: Implementation, reference: Pass, other_points: bool):
        self._implementation, self._reference, self._other_points = implementation, reference, other_points
        if not other_points:  # then errors are planted at the given point only
            self.further_points = []
        super().__init__(implementation.subject, self._problem_of, seed=implementation.seed)
        shapes = [np.shape(y_bar) for y_bar in self.y_bars]
        expected = [leaf.shape for leaf in implementation.outputs(implementation.arrays).leaves]
        if shapes != expected:
            raise InputError("reference", f"outputs of the shapes {expected}, as forward gives them", shapes)
        with jax.enable_x64(True):
            self._pullbacks = PullbacksOfBoth(self.problem, implementation)
        if implementation.dtype != "float64":
            self._narrow_types = (implementation.dtype,)

    def _problem_of(self, dtype: str) -> Problem:
        """The reference with its derivative by JAX, in which errors are planted."""
        arrays = problem.cast(tuple(self._implementation.arrays), dtype)
        made = problem.function_problem(self._reference, lambda *given: None, arrays)
        names = [self._implementation.names[place] for place in self._implementation.places]
        return made._replace(names=names, pullback=partial(automatic_pullback, made))

    def verdicts(self) -> list[Verdict]:
        """Judges the values of the forward pass and the backward pass at the given point, then at others."""
        found = [*self._values(GIVEN, self._implementation.arrays), *self.first_order(regime=GIVEN)]
        refused = [what for what, _ in self._implementation.skipped]
        for regime, arrays in self._implementation.points() if self._other_points else ():
            if has_failed(found):
                break
            found += self._values(regime, arrays)
            is_defined = self._implementation.defined(arrays, self._implementation.dtype)
            if regime in FEW_POINTS and is_defined and f"the point with {regime}" not in refused:
                leaves = problem.cast([arrays[place] for place in self._implementation.places], "float64")
                found += self.first_order(leaves, regime=regime)
        # JAX compiles the reference only. The passes are called as they are.
        plain = [replace(verdict, transform="plain") if verdict.transform == "jit" else verdict for verdict in found]
        return [replace(verdict, dtype=self._implementation.dtype) for verdict in plain]

    @np.errstate(all="ignore")
    def _values(self, regime: str, arrays: Arrays) -> list[Verdict]:
        """Compares the values of the forward pass with those of the reference."""
        dtype = self._implementation.dtype
        y = self._implementation.defined(arrays, dtype)
        try:
            right, *others = self._values_of_reference(arrays)
        except Exception:  # the reference may refuse other lengths of axes
            return []
        if y is None or flat(y.leaves).shape != right.shape:
            return []
        scale = np.abs(right) + np.max(np.abs(others - right), 0) / arbiter.CHANGE
        if regime != GIVEN:  # tails are judged at the given point
            scale += np.max(np.abs(right), initial=1.0)
        found, known = flat(y.leaves), np.isfinite(scale)
        if regime != GIVEN and not known.any():  # rounding of forward alone may give numbers there, as for x / std(x)
            return []
        tolerance = max(PRECISIONS[dtype].visible, HALF_OF_DIGITS["float64"])
        template = Verdict(self.subject, "y", "pass", 0.0, tolerance, "value", dtype, "plain", regime, "relative")
        verdict, at = _at_worst(template, known, found, right, np.where(known, 0.0, np.inf), scale)
        suffix, index = _output(y.leaves, *at) if at else ("", ())
        return [replace(verdict, leaf=f"y{suffix}", reference=f"{DIGITS} digits", index=index)]

    def _values_of_reference(self, arrays: Arrays) -> np.ndarray:
        """The values of the reference in 50 digits, then several times with all numbers a little different."""
        inputs = problem.differentiable_leaves(problem.cast(tuple(arrays), "float64"))
        random = np.random.default_rng(0)
        leaves = [leaf[..., None] * np.ones(VALUES) for leaf in inputs.leaves]
        for leaf in leaves:
            leaf[..., 1:] *= 1 + arbiter.CHANGE * random.choice([-1.0, 1.0], (*leaf.shape[:-1], VALUES - 1))

        def outputs(leaves: Leaves) -> Leaves:
            return problem.differentiable_leaves(self._reference(*inputs.join(leaves))).leaves

        with jax.enable_x64(True), many_digits(DIGITS):
            try:
                found = Program(outputs, inputs.leaves)(list(map(as_numbers, leaves)))
                return found.astype(np.float64).T
            except InputError:  # an operation has no rule
                return np.stack([flat(outputs([leaf[..., place] for leaf in leaves])) for place in range(VALUES)])


def _at_worst(
    template: Verdict, counted: np.ndarray, found: np.ndarray, right: np.ndarray, error: np.ndarray, scale: np.ndarray
) -> tuple[Verdict, tuple[int, ...]]:
    """The verdict on numbers without a source besides the right ones and their error; see ``ComparedValues.verdict``.

    Elements that are not ``counted`` are left out, if there are others.
    """
    values = ComparedValues(found, found, right, error, scale, 0.0, np.zeros_like(right))
    verdict, at = (values.only_at(counted) if counted.any() else values).verdict(template)
    return replace(verdict, automatic=None, automatic_error=None), at


def _about_cotangent(row: np.ndarray, outputs: Leaves) -> str:
    """Which cotangent was pulled back, as the rest of a sentence about it.

    Args:
        row: the cotangent of all outputs, as one vector.
        outputs: arrays of the shapes of the outputs.
    """
    if np.all(row == row[0]):
        return f" is {row[0]:g}{' everywhere' if row.size > 1 else ''}."
    if np.count_nonzero(row) > 1:
        return f" has drawn numbers of both signs, up to {np.max(np.abs(row)):.2g}."
    suffix, index = _output(outputs, int(np.flatnonzero(row)[0]))
    return f"{suffix} is 1{f' at {index}' if index else ''}, and 0 elsewhere."


def _with_sum_0(shape: Shape) -> np.ndarray:
    """A cotangent whose rows have the sum 0, as that of a softmax: 1, -1, 1, -1 ..."""
    length = shape[-1] if shape else 1
    return np.resize((-1.0) ** np.arange(length) * (np.arange(length) < max(length // 2 * 2, 1)), shape)


def _agree(one: np.ndarray, other: np.ndarray, tolerance: float, size: float = 0.0) -> bool:
    """Whether two vectors agree, relative to the largest element, or to a size if this is larger."""
    return bool(np.all(np.abs(one - other) <= tolerance * np.max(np.abs(other), initial=size)))


def _output(y: Leaves, number: int) -> tuple[str, tuple[int, ...]]:
    """Which output has the element with this number, as "[1]" if there are several, and the index of the element."""
    ends = np.cumsum([leaf.size for leaf in y])
    place = int(np.searchsorted(ends, number, "right"))
    index = _index((number - int(ends[place]) + y[place].size,), y[place].shape)
    return f"[{place}]" if len(y) > 1 else "", index


def _index(at: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index in an array of an element of its flat form."""
    return tuple(map(int, np.unravel_index(at[0], shape))) if at and shape else ()


def strided_copy(axis: int, array: np.ndarray) -> np.ndarray:
    """A copy with gaps between its elements (axis -1) or its rows (axis -2), as those of a part of a wider array.

    Axes along which all numbers are equal have no strides. The gaps have other numbers, so code that takes the copy for
    contiguous stays inside.
    """
    axis = max(axis, -1 - array.ndim)
    copy, gaps = np.moveaxis(np.repeat(np.expand_dims(array, axis), 2, axis), axis, 0)
    if np.issubdtype(array.dtype, np.floating):  # another integer might be no index
        gaps += 77
    strides = [stride if np.diff(array, axis=place).any() else 0 for place, stride in enumerate(copy.strides)]
    return np.lib.stride_tricks.as_strided(copy, strides=strides)


def with_last_in_memory(axis: int, array: np.ndarray) -> np.ndarray:
    """A copy with this axis last in memory, if it has the axis: for axis 1 of images, PyTorch's channels_last."""
    order = sorted(range(array.ndim), key=lambda other: other == axis)
    return array.transpose(order).copy().transpose(np.argsort(order))


def flat(arrays: Leaves) -> np.ndarray:
    """The elements of all arrays, as one vector in float64."""
    return np.concatenate([np.zeros(0), *(np.reshape(array, -1).astype(np.float64) for array in arrays)])
