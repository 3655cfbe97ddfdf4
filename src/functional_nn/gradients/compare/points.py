"""Further points at which a formula is judged: other numbers, both sides of branches, and other lengths of axes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var

from functional_nn.core.shapes import Shape
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array
from functional_nn.gradients.compare.problem import Array, Leaves, Problem
from functional_nn.jaxprs.walk import all_equations, inner_programs

ENOUGH_NUMBERS, MOST_REPETITIONS = 24, 8
"""Normal numbers are drawn again until there are this many of them, at most eight times."""
WIDTHS = (0.3, 1.0, 4.0)
"""The standard deviations of the normal numbers."""
EXTREMES = (1e-4, 1e11 / 7, 3e3)
"""The factors of very small and very large numbers. For the second one, there are fractions, and most numbers are too
large for int32. The exponential function overflows for the last one."""
LARGE = 1e3
"""What is added to numbers where a flag is False."""
DECIMALS = 3
"""Drawn numbers are rounded, so that a report shows all their digits."""
COMPARING = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "max", "min", "clamp", "add", "sub"))
"""Operations with a constant c at which a function may change its branch, as in x < c, or in x - c < 0."""
KEEPING = frozenset(("broadcast_in_dim", "convert_element_type", "reshape", "slice", "squeeze", "transpose"))
"""Operations whose results are numbers of their first operand."""
SIGNS = {"add": 1, "sub": -1}
OUTCOMES = {"eq": np.equal, "ne": np.equal, "lt": np.less, "ge": np.less, "max": np.less}
OUTCOMES |= {"gt": np.greater, "le": np.greater, "min": np.greater}
"""What operations with a whole number and a constant tell apart."""
SWAPPED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
LONGER = (9, 11)
"""Axes become longer by one of these numbers, which makes even lengths odd: 11 if a length is a multiple of four."""
SHORTEST, LONG = (1, 2), (258, 263, 257)
"""Other lengths of an axis that may have any: 2 if the function is not defined for 1. Code often works in blocks of 32
to 256 numbers, and drops the rest. The long one is the first that leaves another remainder when divided by 4. So a loop
in steps of 4 meets all four."""
EQUAL = (32, 8)
"""The length that all axes get at once: so matrices are square, and blocks of 2 to 32 numbers whole. It is the second
one if an array becomes too large otherwise, or if an axis may not have any length."""
MOST_BOUND, MOST_SETS = 3, 16
"""At most this many axes that have to keep the same length are found, by trying at most this many sets of them."""
MOST_ELEMENTS = 100_000
"""Arrays do not become larger than this."""
REPEATED_PERMUTATION = "repeated whole numbers in place of a permutation"
"""The name of arguments for which a formula may be wrong: it may use that none of 0 … n - 1 is missing."""
MOST_REMAINDERS = 8
"""Of a divisor up to this one, all remainders are tried. Of a larger one, only those of neighbors are."""
DIVISORS = {"remainder": 0, "rem": 0, "and": 1}
"""Operations and functions that tell remainders of whole numbers apart. A constant plus this number is the divisor."""
MOST_CONSTANTS, SMALLEST_CONSTANT, LARGEST_CONSTANT = 12, 1e-30, 1e8
"""Points have numbers near at most this many constants between the two others."""


def further_points(problem: Problem, y_bars: Leaves, constants: Sequence[float]) -> Iterator[tuple[Leaves, Leaves]]:
    """Yields further points of a problem, each with a drawn cotangent of the outputs.

    There are normal numbers of three sizes, some with a 0 in every other array, also beside whole numbers from 2 on,
    and very large and very small ones, also a single one that is far below all others, and some that int32 cannot
    hold; evenly spaced numbers in a random order and sorted, whole numbers (which are often equal, or at kinks),
    positive numbers, zeros, equal numbers, numbers at each constant that the function or the formula compares with and
    on both sides of it, and numbers near those of the problem's own point, also sorted, or with one such constant.

    Args:
        problem: the problem. Its ``domain`` moves each point to where the formula has to hold.
        y_bars: cotangents, for their shapes.
        constants: see ``branch_constants``.
    """
    random = np.random.default_rng(1)

    def normal(leaf: Array) -> np.ndarray:
        return random.normal(size=np.shape(leaf))

    def spread(leaf: Array) -> np.ndarray:
        return np.linspace(-8, 8.1, np.size(leaf)).reshape(np.shape(leaf))

    leaves = [np.asarray(leaf, np.float64) for leaf in problem.leaves]
    # If a point has few numbers, more points are needed to reach every branch.
    repetitions = min(MOST_REPETITIONS, -(-ENOUGH_NUMBERS // max(sum(leaf.size for leaf in leaves), 1)))
    points: list[list[np.ndarray]] = [[width * normal(leaf) for leaf in leaves] for width in WIDTHS * repetitions]
    points.append([random.permutation(spread(leaf).reshape(-1)).reshape(leaf.shape) for leaf in leaves])
    points += [[sign * spread(leaf) for leaf in leaves] for sign in (1, -1)]
    points += [[change(normal(leaf)) for leaf in leaves] for change in (np.round, np.abs)]
    points.append([np.zeros(leaf.shape) for leaf in leaves])
    points.append([np.full(leaf.shape, random.normal()) for leaf in leaves])
    for start, least in ((0, 0), (1, 0), (0, 2), (1, 2)):
        points.append([least + np.abs(np.round(normal(leaf))) if least else normal(leaf) for leaf in leaves])
        for number, leaf in enumerate(points[-1][start::2]):
            leaf.reshape(-1)[number % max(leaf.size, 1) :][:1] = 0
    points = [[np.round(leaf, DECIMALS) for leaf in point] for point in points]
    points += [[size * leaf for leaf in points[0]] for size in EXTREMES]
    points.append([leaf.copy() for leaf in points[0]])
    for leaf in points[-1]:
        leaf.reshape(-1)[:1] = -EXTREMES[-1] * np.abs(leaf.reshape(-1)[:1])
    points += _at_constants(constants, leaves, random)
    points += [[constant / 16 * normal(leaf) for leaf in leaves] for constant in _with_roots(constants)]
    points.append([leaf * (1 + 0.1 * normal(leaf)) for leaf in leaves])
    points.append([np.sort(leaf, axis=None).reshape(leaf.shape) for leaf in leaves])
    points += _with_one_constant(_with_roots(constants), leaves)
    for point in points:
        yield problem.domain(point) if problem.domain else point, [normal(bar).astype(bar.dtype) for bar in y_bars]


def other_arguments(arguments: PyTree, operations: Callable[[PyTree], int]) -> Iterator[list[tuple[str, PyTree]]]:
    """Yields lists of other arguments, each with its name in a report. Of each list, the first one is used that fits.

    In the first list, all axes become longer, then only those of one length, and at last none. In the second one, they
    get one length. In the next two, axes get a length of ``SHORTEST`` and one of ``LONG``, if the function takes longer
    ones and the program has hardly more operations then: a loop of Python over them would take very long to compile.
    Then permutations change, all flags are equal, numbers are large where a flag is False, and the flags or whole
    numbers of one argument change alone. Whole numbers of one shape also become equal. In the last lists, all axes of
    length 1 get a length that no axis has. Then one of them alone gets it, or one of two axes of an array that have the
    same length, and one of two axes of different arrays. Last, an axis of length 1 gets the length of the same axis of
    another array.

    Numbers are drawn near the given ones. Whole numbers are often indices, so they keep their values, but some are
    repeated. Flags change their order. Arguments that would be the same as before are left out.

    Args:
        arguments: the given arguments.
        operations: the number of operations in the program of the function and the formula for some arguments; -1 if
            they do not take these.
    """
    random, (leaves, structure) = np.random.default_rng(2), jax.tree.flatten(arguments)
    places = [place for place, x in enumerate(leaves) if is_array(x) and jnp.issubdtype(x.dtype, np.generic)]
    arrays = [np.asarray(leaves[place]) for place in places]
    axes = [(place, axis, x.shape) for place, x in zip(places, arrays, strict=True) for axis in range(x.ndim)]
    fixed = {length for array in arrays if _is_permutation(array) for length in array.shape}
    lengths = sorted({length for array in arrays for length in array.shape if length > 1} - fixed)
    longer = LONGER[any(n % 4 == 0 for n in lengths)]
    new = min({*range(2, len(lengths) + 4)} - {*lengths, *fixed})

    repeats = any(not np.array_equal(with_repetitions(x), x) for x in arrays if x.dtype.kind in "biu")
    regime = f"axes of other lengths{' and other flags or whole numbers' if repeats else ''}"

    def with_shapes(others: PyTree) -> tuple[str, PyTree]:
        return f"{regime}: {', '.join(str(np.shape(leaf)) for leaf in jax.tree.leaves(others))}", others

    def changed(change: Callable[[int, np.ndarray], np.ndarray]) -> PyTree:
        others = dict(enumerate(leaves))
        for place, array in zip(places, arrays, strict=True):
            others[place] = change(place, array)
        return jax.tree.unflatten(structure, others.values())

    def with_axes(new: Mapping[tuple[int, int], int]) -> PyTree:
        def change(place: int, x: np.ndarray) -> np.ndarray:
            return resized(x, tuple(new.get((place, axis), n) for axis, n in enumerate(x.shape)), random)

        return changed(change)

    def with_lengths(new: Mapping[int, int]) -> PyTree:
        return with_axes({(place, axis): new[shape[axis]] for place, axis, shape in axes if shape[axis] in new})

    def of_lengths(sizes: Mapping[int, int]) -> list[tuple[str, PyTree]]:
        """All axes get other lengths, then only those of one length."""
        every = dict.fromkeys([tuple(sizes.items()), *((pair,) for pair in sizes.items())])
        return [with_shapes(with_lengths(dict(chosen))) for chosen in every if chosen]

    def is_small(one: tuple[str, PyTree]) -> bool:
        return max(map(np.size, jax.tree.leaves(one[1]))) <= MOST_ELEMENTS

    repeated = [("repeated whole numbers", with_lengths({}))] if repeats else []
    yield [*of_lengths({n: n + longer for n in lengths}), *repeated]
    usual = operations(arguments)
    grown = {n: operations(with_lengths({n: n + longer})) for n in lengths}
    free = [n for n in lengths if min(usual, grown[n]) >= 0 and grown[n] - usual < longer]
    long = {n: next(length for length in LONG if length % 4 not in (n % 4, (n + longer) % 4)) for n in free}
    large, small = (of_lengths(dict.fromkeys(lengths, length)) for length in EQUAL)
    yield [*filter(is_small, large[:1] if free == lengths else ()), *small]
    for first_is_long in (0, 1):
        of_short, of_other = (
            of_lengths({n: (short, long[n])[(number + first_is_long) % 2] for number, n in enumerate(free)})
            for short in SHORTEST
        )
        yield [*filter(is_small, [*of_short[:1], *of_other[:1], *of_short[1:]])]
    if fixed:
        yield [("another permutation", changed(lambda place, x: _other_permutation(x) if _is_permutation(x) else x))]
        repeat = lambda place, x: x // 2 * 2 if _is_permutation(x) else x  # noqa: E731
        yield [(REPEATED_PERMUTATION, changed(repeat))]
    for name, new_arrays in _other_whole_numbers(dict(zip(places, arrays, strict=True))):
        yield [(name, changed(lambda place, x, new_arrays=new_arrays: new_arrays.get(place, x)))]
    for length in dict.fromkeys(shape[axis] for _, axis, shape in axes):
        same = rest = [(place, axis) for place, axis, shape in axes if shape[axis] == length]
        if length == 1:
            yield [with_shapes(with_axes(dict.fromkeys(same, new)))]
        while rest:
            sets = ([rest[0], *others] for size in range(MOST_BOUND) for others in combinations(rest[1:], size))
            fitting = (
                chosen for chosen in islice(sets, MOST_SETS) if operations(with_axes(dict.fromkeys(chosen, new))) >= 0
            )
            bound = next(fitting, rest[:1])
            if bound != same:
                yield [with_shapes(with_axes(dict.fromkeys(bound, new)))]
            rest = [axis for axis in rest if axis not in bound]
    for place, axis, shape in axes:
        beside = {x.shape[axis - len(shape)] for x in arrays if shape[axis] == 1 and x.ndim >= len(shape) - axis}
        yield [with_shapes(with_axes({(place, axis): length})) for length in sorted(beside - {0, 1})]


def _other_whole_numbers(arrays: Mapping[int, np.ndarray]) -> Iterator[tuple[str, dict[int, np.ndarray]]]:
    """Yields other flags and whole numbers for some of the arrays, with a name: all flags change, then one array."""
    flags = {place: ~x for place, x in arrays.items() if x.dtype == bool}
    for flag in (False, True) if flags else ():
        yield f"all flags {flag}", {place: np.full_like(x, flag) for place, x in flags.items()}
    for hidden in filter(np.any, flags.values()):
        alike = {place: x for place, x in arrays.items() if x.shape[: hidden.ndim] == hidden.shape}
        large = {n: (x.T + LARGE * hidden.T).T.astype(x.dtype) for n, x in alike.items() if x.dtype.kind not in "biu"}
        if large:
            yield "large numbers where a flag is False", large
    others = flags | {place: with_repetitions(x) for place, x in arrays.items() if x.dtype.kind in "iu" and x.ndim}
    chosen = dict.fromkeys([tuple(flags), *((place,) for place in others)])
    for places in filter(None, chosen) if len(others) > 1 else ():
        yield "some flags or whole numbers changed", {place: others[place] for place in places}
    indices = {place: x for place, x in arrays.items() if x.dtype.kind == "i" and not _is_permutation(x)}
    for (one, x), (other, y) in combinations(indices.items(), 2):
        if x.shape == y.shape and not np.array_equal(x, y):
            # The smaller number is an index of both axes. A negative one may have a meaning of its own.
            least = np.where(np.arange(x.size).reshape(x.shape) % 2, -1, np.minimum(x, y))
            yield "equal whole numbers", {one: np.where(least < 0, x, least), other: np.where(least < 0, y, least)}


def at_compared_integers(traced: Callable[[], ClosedJaxpr], arguments: PyTree) -> Iterator[list[tuple[str, PyTree]]]:
    """Yields arguments with a whole number for which a comparison, such as ``labels != -1``, has another result.

    The number takes the place of the first one, then of all. The function may not be meant for any other whole numbers,
    so these are not tried.

    Args:
        traced: makes a program of the function and the formula. Its inputs are the leaves of the arguments.
        arguments: the arguments.
    """
    leaves, structure = jax.tree.flatten(arguments)
    arrays = {place: np.asarray(x) for place, x in enumerate(leaves) if is_array(x) and x.dtype.kind in "iu" and x.size}
    inputs = [Whole(place, 0) if place in arrays else None for place in range(len(leaves))]
    try:
        comparisons = dict.fromkeys(_comparisons(traced(), inputs)) if arrays else ()
    except (TypeError, ValueError):  # the values of whole numbers are needed for tracing, as for a shape
        return

    def with_array(place: int, array: np.ndarray) -> PyTree:
        return jax.tree.unflatten(structure, [array if n == place else leaf for n, leaf in enumerate(leaves)])

    filled: set[tuple[int, int]] = set()
    for place, constant, outcome in comparisons:
        array = arrays[place]
        start, limits = int(array.flat[0]) if outcome is np.remainder else constant, np.iinfo(array.dtype)
        nearer = -1 if start > 0 else 1  # an index must not become too large
        numbers: Sequence[int] = (start, start + nearer, start - nearer)
        if outcome is np.remainder:
            near = constant if constant <= MOST_REMAINDERS else 2
            numbers = range(max(start - near + 1, min(array.min(), 0)), min(start + near, max(array.max(), 1) + 1))
        given = array.reshape(-1).tolist()
        found = {}  # the first number with each outcome
        for number in (*given, *(n for n in numbers if limits.min <= n <= limits.max)):
            found.setdefault(outcome(float(number), constant).item(), number)
        for number in found.values():
            if number not in given:
                changed = array.copy()
                changed.flat[0] = number
                yield [(f"a whole number is {number}", with_array(place, changed))]
            may_repeat = number not in given or not _is_permutation(array)
            if len(found) == 2 <= array.size and may_repeat and (place, number) not in filled:
                filled.add((place, number))
                yield [(f"all whole numbers are {number}", with_array(place, np.full_like(array, number)))]


class Whole(NamedTuple):
    """A whole number in a program: the number of an input plus a constant, or the constant alone."""

    place: int | None
    constant: int


def _comparisons(program: ClosedJaxpr, inputs: Sequence[Whole | None]) -> Iterator[tuple[int, int, np.ufunc]]:
    """Yields the place of each input that is compared with a constant, this constant, and what is told apart."""
    known = dict(zip(program.jaxpr.invars, inputs, strict=True))
    names = {result: equation.primitive.name for equation in program.jaxpr.eqns for result in equation.outvars}
    # x[i] is where(i < 0, i + n, i). This comparison is not one of the user.
    choices = [equation.invars for equation in program.jaxpr.eqns if equation.primitive.name == "select_n"]
    wrapped = {which for which, *_, last in choices if not isinstance(last, Literal) and names.get(last) == "add"}
    for equation in program.jaxpr.eqns:
        name, operands = equation.primitive.name, [_whole(variable, known) for variable in equation.invars]
        for inner in inner_programs(equation):
            yield from _comparisons(inner, operands[len(operands) - len(inner.jaxpr.invars) :])
        if name in KEEPING:
            known[equation.outvars[0]] = operands[0]
        pairs = [(name, *operands), (SWAPPED.get(name, name), *operands[::-1])] if len(operands) == 2 else []
        if name == "clamp":
            low, x, high = operands
            pairs = [("max", x, low), ("min", x, high)]
        for operation, one, other in pairs:
            if not one or not other or one.place is None or other.place is not None:
                continue
            called = equation.params.get("name", name)
            if called in DIVISORS and one is operands[0] and other.constant > 0:
                yield one.place, other.constant + DIVISORS[called], np.remainder
            if name in SIGNS:
                known[equation.outvars[0]] = Whole(one.place, one.constant + SIGNS[name] * other.constant)
            if operation in OUTCOMES and equation.outvars[0] not in wrapped:
                yield one.place, other.constant - one.constant, OUTCOMES[operation]


def _whole(variable: Var | Literal, known: dict[Var, Whole | None]) -> Whole | None:
    """What is known about an operand."""
    if not isinstance(variable, Literal):
        return known.get(variable)
    number = np.asarray(variable.val)
    return Whole(None, int(number)) if number.dtype.kind in "iu" and not number.shape else None


def resized(array: np.ndarray, shape: Shape, random: np.random.Generator) -> np.ndarray:
    """An array of another shape: of numbers near the given ones, or of the same whole numbers, half of them twice."""
    if not jnp.issubdtype(array.dtype, np.inexact):
        return np.resize(with_repetitions(array), shape)
    factors = 1.0 if shape == array.shape else random.uniform(0.5, 1.5, shape)
    return (np.resize(array, shape) * factors).astype(array.dtype)


def with_repetitions(array: np.ndarray) -> np.ndarray:
    """The same whole numbers, half of them twice; flags in another order, or not all equal.

    >>> with_repetitions(np.array([3, 0, 1])), with_repetitions(np.array([True, False, False]))
    (array([3, 1, 1]), array([False,  True, False]))
    """
    flat = array.reshape(-1)
    if array.dtype == bool:
        are_equal = flat.all() or not flat.any()
        return np.where(are_equal, flat ^ (np.arange(flat.size) % 2 == 1), np.roll(flat, 1)).reshape(array.shape)
    if _is_permutation(array):
        return array
    number = np.arange(flat.size)
    # Half of them from both ends, so that those in between are missing. If that changes nothing, the first half. Of
    # 0, 0, 1, 2 these are all equal, which tells little about indices.
    from_ends = np.where(number < flat.size // 2, number // 2, flat.size - 1 - (flat.size - 1 - number) // 2)
    repeated = (flat[chosen] for chosen in (from_ends, number // 2, (number + 1) // 2))
    return next((x for x in repeated if np.any(x != x[:1]) and np.any(x != flat)), flat).reshape(array.shape)


def with_smallest(array: np.ndarray) -> np.ndarray:
    """The smallest of the whole numbers everywhere, often that of an ignored label; or False if a flag is False."""
    return array if _is_permutation(array) else np.full_like(array, min(array.flat, default=0))


def every_second(shape: Shape, first: int) -> np.ndarray:
    """0, 1, 0, 1, …, or the other way round if the first number is odd."""
    return np.resize([first % 2, 1 - first % 2], shape)


def without_row(array: np.ndarray, number: int = 0) -> np.ndarray:
    """A copy with 0, or False, in the row with this number. An array of one axis, or of one row, stays as it is."""
    copy = array.copy()
    if array.ndim > 1 and len(array) > 1:
        copy[number % len(array)] = 0
    return copy


def _is_permutation(array: np.ndarray) -> bool:
    """Whether whole numbers are 0 … n - 1 in any order. A formula may use that none of them is missing."""
    is_list = array.dtype.kind in "iu" and array.ndim == 1 and array.size > 1
    return is_list and np.array_equal(np.sort(array), np.arange(array.size))


def _other_permutation(array: np.ndarray) -> np.ndarray:
    """Another permutation, by one place to the left. It is its own inverse only if it has two elements."""
    others = (np.roll(np.arange(array.size), shift).reshape(array.shape) for shift in (-1, 1))
    return next((x.astype(array.dtype) for x in others if not np.array_equal(x, array)), array)


def _at_constants(
    constants: Sequence[float], leaves: Leaves, random: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Yields points with numbers at each constant and its negative, a little below and above, and between them."""
    constants = _with_roots(constants)
    ordered = np.sort([*constants, *(-c for c in constants)])
    # A branch may be taken between two constants only.
    exact = np.concatenate([ordered, (ordered[1:] + ordered[:-1]) / 2])
    numbers = random.permutation(np.concatenate([exact, 7 / 8 * ordered, 9 / 8 * ordered]))
    smallest = min((leaf.size for leaf in leaves if leaf.size), default=1)
    # In one point after the other, each leaf takes the next numbers, until the smallest leaf has had all of them.
    for start in range(0, len(numbers), smallest):
        point = [np.resize(np.roll(numbers, -start), leaf.shape) for leaf in leaves]
        # The others are moved a little, so that they differ.
        factors = [np.round(random.uniform(0.95, 1.05, leaf.shape), DECIMALS) for leaf in leaves]
        pairs = zip(point, factors, strict=True)
        yield [np.where(np.isin(leaf, exact), leaf, leaf * factor) for leaf, factor in pairs]


def _with_one_constant(constants: Sequence[float], leaves: Leaves) -> Iterator[list[np.ndarray]]:
    """Yields the problem's own point with a constant, or its negative, as the first number of one leaf.

    All others stay as they were given. Where they are 0, or have another sign, the function may not be defined.
    """
    for constant in constants:
        for place in range(len(leaves)):
            for number in (constant, -constant):
                point = [np.array(leaf) for leaf in leaves]
                point[place].reshape(-1)[:1] = number
                yield point


def _with_roots(constants: Sequence[float]) -> list[float]:
    """The constants that are neither tiny nor huge. Small ones are often compared with squares, as in |x|² > 1e-16."""
    every = dict.fromkeys([*constants, *(c**0.5 for c in constants if c < 1)])
    return [c for c in every if SMALLEST_CONSTANT < c < LARGEST_CONSTANT][:MOST_CONSTANTS]


def branch_constants(program: ClosedJaxpr, operations: Collection[str] = COMPARING) -> list[float]:
    """The sizes of constants in some operations of a program, except 0: there it may change its branch.

    A call passes its constants on, as ``jnp.clip`` does.
    """
    found: dict[float, None] = {}
    for equation in all_equations(program):
        if equation.primitive.name in operations or inner_programs(equation):
            for operand in equation.invars:
                if isinstance(operand, Literal) and np.ndim(operand.val) == 0 and operand.val:
                    # The smallest integer of a type has no absolute value in this type.
                    found[abs(complex(operand.val))] = None
    return list(found)
