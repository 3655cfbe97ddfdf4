"""The origin of results that are not finite: the argument, or the first operation that made such a number.

A traced program is computed operation by operation (``Recorder``), and every operation that reads or makes a number
that is not finite is recorded. ``trace_back`` then goes back from the results, element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.core.layer import BACKWARD
from functional_nn.jaxprs import evaluate, walk
from functional_nn.jaxprs.counts import ELEMENTWISE as COUNTED
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, bind

Mask: TypeAlias = np.ndarray
"""An array of booleans that marks elements of an array of the same shape."""

STEEP_AT: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("atan2", "cbrt", "digamma", "div", "integer_pow", "lgamma", "log", "log2"), (0,)),
    **dict.fromkeys(("pow", "rsqrt", "sqrt"), (0,)),
    **dict.fromkeys(("acos", "asin", "atanh", "erf_inv"), (-1, 1)),
    "acosh": (1,),
    "log1p": (-1,),
}
"""The arguments, or divisors, at which the derivative of an operation is infinite or not defined."""
NEAR = 1e-6
"""An argument that is at most this far from such a point counts."""

HARMLESS = 0.5
"""The number that takes the place of numbers that are not finite. Operations on it give finite numbers."""

ROW, ROWS = "row of a scan", "rows of a scan"
"""The kinds of operations by which a step of a ``scan`` reads its row of an array, and by which the rows that all steps
have written become an array."""


class Origin(NamedTuple):
    """Where the first number that is not finite was made.

    Args:
        operation: the operation that made it.
        result: the number of the result that contains it.
        element: the index of the first such element.
    """

    operation: Operation
    result: int
    element: tuple[int, ...]

    @property
    def value(self) -> complex:
        """The value of the element."""
        return np.asarray(self.operation.results[self.result].array)[self.element].item()

    @property
    def numbers(self) -> list[np.ndarray]:
        """For each operand, the numbers that the element was computed from, in float64; no booleans and keys."""
        operation = self.operation
        elements = [np.zeros(np.shape(result.array), bool) for result in operation.results]
        elements[self.result][self.element] = True
        return [
            np.real(np.asarray(operand.array)[mask]).astype(np.float64) if _is_number(operand) else np.zeros(0)
            for operand, mask in zip(operation.operands, read(operation, elements), strict=True)
        ]

    @property
    def kind(self) -> str:
        """How the number was made.

        ``made`` of finite numbers; ``made of infinity``, as NaN by ∞ - ∞; or a ``constant`` or an ``infinite constant``
        that the operation reads.
        """
        numbers = np.concatenate([np.zeros(1), *self.numbers])
        if np.isnan(numbers).any():
            return "constant"
        if np.isinf(numbers).any():
            return "made of infinity" if np.isnan(self.value) else "infinite constant"
        return "made"


@dataclass(eq=False)
class Tracked:
    """A value of the evaluation.

    Args:
        array: the value.
        source: the operation that made it, if it was recorded; None for an argument or a constant.
        number: the index among the results of this operation, or among the arguments; -1 for all other values.
    """

    array: jax.Array
    source: Operation | None = None
    number: int = -1

    @cached_property
    def bad(self) -> Mask:
        """Which of its elements are NaN or infinite. Integers and keys never are."""
        return (
            np.asarray(~np.isfinite(np.asarray(self.array))) if _is_number(self) else np.zeros(self.array.shape, bool)
        )

    @property
    def is_bad_constant(self) -> bool:
        """Whether it is a constant of the program that is not finite, or made of such a constant alone."""
        if self.source is not None:
            return len(self.source.operands) == 1 and self.source.operands[0].is_bad_constant
        return self.number < 0 and bool(self.bad.any())


class Around(NamedTuple):
    """The calls and loops around an equation.

    Args:
        scope: the names of the layers and transforms.
        steps: for each loop, its kind and the number of the step.
        function: the name of the function of JAX, such as ``norm``; or "".
        place: the innermost source line.
    """

    scope: str = ""
    steps: tuple[tuple[str, int], ...] = ()
    function: str = ""
    place: walk.SourceLine | None = None

    def inside(self, equation: JaxprEqn, *step: tuple[str, int]) -> Around:
        """What is around the equations of a program in this equation, which may be a step of a loop."""
        is_of_jax = equation.primitive.name == "jit" and walk.is_of_jax(equation.params["jaxpr"])
        function = self.function or (equation.params["name"].strip("_") if is_of_jax else "")
        return Around(walk.within(self.scope, equation), (*self.steps, *step), function, self.place_of(equation))

    def place_of(self, equation: JaxprEqn) -> walk.SourceLine | None:
        """The source line of an equation."""
        # JAX keeps the traces of its own functions, so the lines in these may belong to another caller. An equation of
        # jnp.log has no line outside of JAX if this function itself is a branch, as in lax.cond(x > 0, jnp.log, …).
        return self.place if self.function else walk.place_of(equation) or self.place


@dataclass(eq=False)
class Operation:
    """One run of an equation that read or made a number that is not finite.

    Args:
        equation: the equation.
        kind: the name of its primitive, or ``ROW`` or ``ROWS``.
        around: the calls and loops around it.
        operands: what it read.
        results: what it made.
        readers: the recorded operations that read non-finite elements of its results.
    """

    equation: JaxprEqn
    kind: str
    around: Around
    operands: Sequence[Tracked]
    results: Sequence[Tracked] = ()
    readers: list[Operation] = field(default_factory=list)

    @property
    def scope(self) -> str:
        """The names of the layers and transforms around it."""
        return walk.within(self.around.scope, self.equation)

    @property
    def place(self) -> walk.SourceLine | None:
        """Its source line."""
        return self.around.place_of(self.equation)


class Recorder:
    """Evaluates a program and records operations. Loops and branches are run in Python, step by step.

    Attributes:
        operations: the recorded operations, in the order in which they ran.
        steep: the operations of the forward pass with derivatives that may not be finite, with their source lines.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.steep: set[tuple[str, walk.SourceLine | None]] = set()

    def run(self, program: ClosedJaxpr, arguments: Sequence[jax.Array]) -> list[Tracked]:
        """Evaluates the program and returns its results."""
        tracked = [Tracked(array, None, number) for number, array in enumerate(arguments)]
        return self._run(program, tracked, Around())

    def _run(self, program: walk.TracedProgram, arguments: Sequence[Value], around: Around) -> list[Tracked]:
        return [_tracked(result) for result in evaluate.evaluate(program, arguments, partial(self._compute, around))]

    def _compute(
        self, around: Around, path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute
    ) -> list[Value]:
        """The hook of ``evaluate``."""
        operands = [_tracked(operand) for operand in operands]
        name = equation.primitive.name
        if name in walk.CALLS:
            return self._run(walk.called_program(equation), operands, around.inside(equation))
        if name in walk.LOOPS:
            return self._run_loop(equation, operands, around)
        if name == "cond":
            programs = walk.branches(equation)
            number = int(np.clip(np.asarray(operands[0].array), 0, len(programs) - 1))
            return self._run(programs[number], operands[1:], around.inside(equation))
        arrays = [operand.array for operand in operands]
        if "transpose(" not in walk.within(around.scope, equation) and _is_steep(equation, arrays):
            self.steep.add((name, around.place_of(equation)))
        return self._recorded(Operation(equation, name, around, operands), bind(equation, arrays))

    def _run_loop(self, equation: JaxprEqn, operands: list[Tracked], around: Around) -> list[Value]:
        kind = equation.primitive.name

        def run(program: walk.TracedProgram, arguments: list[Value], step: int) -> list[Value]:
            return self._run(program, arguments, around.inside(equation, (kind, step)))

        def row(x: Tracked, step: int) -> Tracked:
            here = around.inside(equation, (kind, step))
            return self._recorded(Operation(equation, ROW, here, [x]), [x.array[step]])[0]

        def rows(column: Sequence[Tracked]) -> Tracked:
            stacked = jnp.stack([value.array for value in column])
            return self._recorded(Operation(equation, ROWS, around, column), [stacked])[0]

        def select(going: np.ndarray, new: list[Value], old: list[Value], step: int) -> list[Value]:
            for i, (after, before) in enumerate(zip(new, old, strict=True)):
                which = jnp.broadcast_to(evaluate.with_axes(jnp.asarray(going), after.array), after.array.shape)
                choice = jax.make_jaxpr(lax.select)(which, after.array, before.array)
                (new[i],) = run(choice, [Tracked(which), after, before], step)
            return new

        if kind == "scan":
            return evaluate.scan_in_steps(equation, operands, run, row, rows)
        return evaluate.while_in_steps(equation, operands, run, lambda value: np.asarray(value.array), select)

    def _recorded(self, operation: Operation, arrays: Sequence[jax.Array]) -> list[Tracked]:
        """The results of an operation. It is recorded if something in it is not finite."""
        operation.results = [Tracked(x, operation, number) for number, x in enumerate(arrays)]
        if not any(value.bad.any() for value in (*operation.operands, *operation.results)):
            return list(map(Tracked, arrays))
        for operand in operation.operands:
            if operand.bad.any() and operand.source is not None:
                operand.source.readers.append(operation)
        self.operations.append(operation)
        return list(operation.results)


def _is_steep(equation: JaxprEqn, operands: Sequence[jax.Array]) -> bool:
    """Whether the derivative of an equation may be infinite or not defined at some element of its operands."""
    name = equation.primitive.name
    # x², whose parameter y is 2, has a finite derivative.
    if name not in STEEP_AT or equation.params.get("y", -1) >= 0:
        return False
    argument = np.asarray(operands[-1] if name == "div" else operands[0])
    argument = argument.astype(np.complex128 if np.iscomplexobj(argument) else np.float64)
    return any((np.abs(argument - point) <= NEAR).any() for point in STEEP_AT[name])


def _tracked(value: Tracked | jax.Array) -> Tracked:
    """Tracks a value of the evaluation. A value that is not tracked yet is a constant of the program."""
    return value if isinstance(value, Tracked) else Tracked(value)


# From the results back to the origin


def trace_back(results: Sequence[Tracked], operations: Sequence[Operation]) -> tuple[dict[int, Mask], list[Origin]]:
    """Goes back from the elements of the results that are not finite, through elements that are not finite.

    Returns:
        the arguments with elements that reach a result, by number in rising order; and the origins of such elements,
        in the order in which they were made.
    """
    reaching: dict[tuple[Operation | None, int], Mask] = {}

    def reach(value: Tracked, elements: Mask) -> None:
        # Where a constant of the program is read, the trail ends.
        if elements.any() and not value.is_bad_constant:
            key = (value.source, value.number)
            reaching[key] = reaching[key] | elements if key in reaching else elements

    for result in results:
        reach(result, result.bad)
    origins: list[Origin] = []
    # From the last operation to the first: all readers of an operation come before it, so its elements are complete.
    for operation in reversed(operations):
        nothing = [np.zeros(np.shape(result.array), bool) for result in operation.results]
        elements = [reaching.get((operation, number), nothing[number]) for number in range(len(nothing))]
        if any(mask.any() for mask in elements):
            # The trail goes on only through elements that are not finite.
            for operand, mask in zip(operation.operands, read(operation, elements), strict=True):
                reach(operand, mask & operand.bad)
            origins += _origins(operation, elements)
    arguments = {number: mask for (source, number), mask in reaching.items() if source is None}
    return dict(sorted(arguments.items())), origins[::-1]


def first_origin(origins: Sequence[Origin]) -> Origin | None:
    """The first operation of the forward pass that made such a number, or else the first one of the backward pass.

    Infinite constants, such as those of a mask, count only if nothing else made a number that is not finite.
    """
    made = [origin for origin in origins if origin.kind != "infinite constant"] or list(origins)
    return min(made, key=lambda origin: is_in_backward_pass(origin.operation), default=None)


def is_in_backward_pass(operation: Operation) -> bool:
    """Whether an operation computes a part of a derivative.

    JAX computes factors of derivatives, such as 1/(2·√x), already in the forward pass. Only the backward pass reads
    them.
    """

    def is_backward(reader: Operation) -> bool:
        return "transpose(" in reader.scope or BACKWARD in reader.scope.split("/")

    return not _reaches_an_end(operation, is_backward)


def is_hidden(origin: Origin, origins: Sequence[Origin]) -> bool:
    """Whether the forward pass is finite, and the backward pass multiplies the number by a cotangent of 0.

    This happens to values that ``jnp.where`` does not choose.
    """
    operation = origin.operation
    if "transpose(" in operation.scope:
        # The derivative of log divides the cotangent, which is 0, by x, which is 0.
        return operation.kind == "div" and bool((origin.numbers[0] == 0).any())
    if is_in_backward_pass(operation):
        made_of_it = [other.operation for other in origins if other.kind == "made of infinity"]
        return any(reader in made_of_it for reader in operation.readers)

    def ends_path(reader: Operation) -> bool:
        return not any(result.bad.any() for result in reader.results) or is_in_backward_pass(reader)

    return not _reaches_an_end(operation, ends_path)


def first_index(mask: Mask) -> tuple[int, ...]:
    """The index of the first element of a mask that is true."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def _reaches_an_end(operation: Operation, ends_path: Callable[[Operation], bool]) -> bool:
    """Whether a path of readers leads from an operation to an operation whose results are not read.

    A path stops at an operation for which ``ends_path`` is true.
    """
    seen, left = {operation}, [operation]
    while left:
        reader = left.pop()
        if ends_path(reader):
            continue
        if not reader.readers:
            return True
        left += set(reader.readers) - seen
        seen.update(reader.readers)
    return False


def _origins(operation: Operation, elements: Sequence[Mask]) -> Iterator[Origin]:
    """The origins at an operation, among the given elements of its results."""
    if operation.kind in (ROW, ROWS):
        return
    # A result that is bad even with harmless operands was made here. So was a NaN of infinities, as of inf - inf.
    made = _repaired(operation, lambda operand: operand.bad)
    made_of_infinity = _repaired(operation, _is_nan)
    for number, result in enumerate(operation.results):
        is_made, is_nan = ~np.isfinite(made[number]), _is_nan(result)
        is_made_nan = is_nan & (is_made | np.isnan(made_of_infinity[number]))
        for mask in (elements[number] & is_made_nan, elements[number] & is_made & ~is_nan):
            if mask.any():
                yield Origin(operation, number, first_index(mask))


def _repaired(operation: Operation, is_bad: Callable[[Tracked], Mask]) -> list[np.ndarray]:
    """The results of an operation with a harmless number in place of bad elements that are no constants."""
    operands = [
        operand.array
        if operand.is_bad_constant or not (bad := is_bad(operand)).any()
        else jnp.where(bad, jnp.asarray(HARMLESS, operand.array.dtype), operand.array)
        for operand in operation.operands
    ]
    results = map(Tracked, bind(operation.equation, operands))
    return [np.asarray(result.array) if _is_number(result) else np.zeros(result.array.shape) for result in results]


def _is_nan(value: Tracked) -> Mask:
    return np.asarray(np.isnan(np.asarray(value.array))) if value.bad.any() else value.bad


# Which elements of an operation's operands its results were computed from

ELEMENTWISE = COUNTED.union(
    ("copysign", "nextafter", "log2", "polynomial", "one_minus_square"),
    ("bessel_i0e", "bessel_i1e", "digamma", "igamma", "igamma_grad_a", "igammac", "lgamma", "polygamma"),
    ("random_gamma_grad", "regularized_incomplete_beta", "zeta", "complex", "conj", "imag", "real"),
    ("eq", "ge", "gt", "is_finite", "le", "lt", "ne"),
    ("convert_element_type", "copy", "copy_p", "name", "pvary", "reduce_precision", "stop_gradient"),
)
"""Operations on arrays of one shape, or single numbers, that compute each element of the result separately."""
REDUCTIONS = frozenset(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"))
BY_DERIVATIVES = REDUCTIONS.union(
    ("broadcast_in_dim", "concatenate", "expand_dims", "reshape", "rev", "slice", "stack", "squeeze", "transpose"),
    ("dynamic_slice", "dynamic_update_slice", "gather", "pad", "split", "tile", "unstack"),
    ("dot_general", "conv_general_dilated", "reduce_window_sum", "scatter", "scatter-add", "scatter-sub"),
    ("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"),
    # What is not chosen does not count: jnp.where hides a NaN in its other branch.
    ("select_n",),
)
"""Operations for which a derivative at 1 is 0 if, and only if, the element is not read."""


def read(operation: Operation, masks: Sequence[Mask]) -> list[Mask]:
    """For each operand, the elements from which the masked elements of the results are computed."""
    shapes = [np.shape(operand.array) for operand in operation.operands]
    is_any = any(mask.any() for mask in masks)
    if operation.kind in ELEMENTWISE:
        return [_to_shape(masks[0], shape) for shape in shapes]
    if operation.kind == ROWS:
        return list(masks[0])
    if operation.kind == ROW:
        whole = np.zeros(shapes[0], bool)
        whole[operation.around.steps[-1][1]] = masks[0]
        return [whole]
    if operation.kind not in BY_DERIVATIVES or not is_any:
        # Without a rule, all elements count as read.
        return [np.full(shape, is_any) for shape in shapes]

    # A cotangent of 1 in each masked element reaches the elements that were read for it. All operands are 1 here.
    def function(*numbers: jax.Array) -> list[jax.Array]:
        remaining = iter(numbers)
        return bind(operation.equation, [next(remaining) if _is_number(x) else x.array for x in operation.operands])

    outputs, pullback = jax.vjp(function, *(jnp.ones_like(x.array) for x in operation.operands if _is_number(x)))
    bars = iter(pullback([jnp.asarray(mask, y.dtype) for mask, y in zip(masks, outputs, strict=True)]))
    nothing = [np.zeros(shape, bool) for shape in shapes]  # of operands that are indices
    pairs = zip(operation.operands, nothing, strict=True)
    return [np.asarray(next(bars)) != 0 if _is_number(operand) else mask for operand, mask in pairs]


def _to_shape(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """The mask of an operand that is broadcast: a single number, or an array with axes of length 1."""
    if shape in (mask.shape, ()):
        return mask if shape else np.asarray(mask.any())
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(mask.any(axis=axes, keepdims=True))


def _is_number(value: Tracked) -> bool:
    return jnp.issubdtype(value.array.dtype, jnp.inexact)
