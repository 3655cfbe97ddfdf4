"""The origin of results that are not finite: an argument, or the first operation that made such a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from functional_nn.core.children import BACKWARD
from functional_nn.jaxprs.non_finite.elements import affected, read
from functional_nn.jaxprs.non_finite.recording import ROW, ROWS, Mask, Operation, Tracked

Index = tuple[int, ...]


class Origin(NamedTuple):
    """Where the first number that is not finite was made.

    Args:
        operation: the operation that made it.
        result: the number of the result that contains it.
        element: the index of the first such element.
        kind: ``made`` if all numbers that the element is computed from are finite; ``made of infinity`` if NaN was
            made of infinite numbers; ``constant`` or ``infinite constant`` if the operation read a constant that is
            NaN or infinite.
    """

    operation: Operation
    result: int
    element: Index
    kind: str

    @property
    def value(self) -> complex:
        """The value of the element."""
        return np.asarray(self.operation.results[self.result].array)[self.element].item()


class BadArgument(NamedTuple):
    """An argument that is not finite, with those of its elements that reach a result."""

    number: int
    elements: Mask


class Trail(NamedTuple):
    """The arguments and operations whose non-finite elements reach a result.

    Args:
        arguments: arguments with such elements.
        origins: operations that made such elements, in the order in which they ran.
        operations: all operations that such elements went through.
    """

    arguments: list[BadArgument]
    origins: list[Origin]
    operations: set[Operation]


def trace_back(results: Sequence[Tracked], operations: Sequence[Operation]) -> Trail:
    """Goes back from the elements of the results that are not finite, through elements that are not finite."""
    reaching: dict[tuple[Operation | None, int], Mask] = {}

    def reach(value: Tracked, elements: Mask) -> None:
        key = (value.source, value.number)
        reaching[key] = reaching[key] | elements if key in reaching else elements

    for result in results:
        if result.not_finite is not None:
            reach(result, result.not_finite)

    origins: list[Origin] = []
    passed: set[Operation] = set()
    # From the last operation to the first: all readers of an operation come before it, so its elements are complete.
    for operation in reversed(operations):
        nothing = [np.zeros(np.shape(result.array), bool) for result in operation.results]
        elements = [reaching.get((operation, number), nothing[number]) for number in range(len(nothing))]
        if not any(mask.any() for mask in elements):
            continue
        passed.add(operation)
        # The trail goes on only through elements that are not finite.
        sources = [
            mask & _not_finite(operand)
            for mask, operand in zip(read(operation, elements), operation.operands, strict=True)
        ]
        for operand, mask in zip(operation.operands, sources, strict=True):
            if mask.any():
                reach(operand, mask)
        # An operation that only passes on a constant is no origin if a later operation reads its result.
        is_read = any(reader in passed for reader in operation.readers)
        if not (is_read and any(result.is_bad_constant for result in operation.results)):
            origins += _origins(operation, elements, sources)
    # Without an operation, a value is an argument, or a constant with the number -1.
    arguments = [
        BadArgument(number, mask) for (source, number), mask in reaching.items() if source is None and number >= 0
    ]
    return Trail(sorted(arguments, key=lambda argument: argument.number), origins[::-1], passed)


def first_origin(origins: Sequence[Origin]) -> Origin | None:
    """The first operation of the forward pass that made such a number, or else the first one of the backward pass.

    Infinite constants, such as those of a mask, count only if nothing else made a number that is not finite.
    """
    made = [origin for origin in origins if origin.kind != "infinite constant"] or list(origins)
    return min(made, key=lambda origin: (is_in_backward_pass(origin.operation), origin.operation.order), default=None)


def is_in_backward_pass(operation: Operation) -> bool:
    """Whether an operation computes a part of a derivative.

    JAX computes factors of derivatives, such as 1/(2·√x), already in the forward pass. Only the backward pass reads
    them.
    """

    def is_backward(reader: Operation) -> bool:
        return "transpose(" in reader.scope or BACKWARD in reader.scope.split("/")

    return not _reaches_an_end(operation, is_backward)


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


def is_hidden(origin: Origin, trail: Trail) -> bool:
    """Whether the forward pass is finite, and the backward pass multiplies the number by a cotangent of 0.

    This happens to values that ``jnp.where`` does not choose.
    """
    operation = origin.operation
    if "transpose(" in operation.scope:
        # The derivative of log divides the cotangent, which is 0, by x, which is 0.
        return operation.kind == "div" and bool((numbers_read(origin)[0] == 0).any())
    if is_in_backward_pass(operation):
        made_of_it = [other.operation for other in trail.origins if other.kind == "made of infinity"]
        return any(reader in made_of_it for reader in operation.readers)
    return not _reaches_end_of_forward_pass(operation)


def _reaches_end_of_forward_pass(operation: Operation) -> bool:
    """Whether the forward pass ends with numbers that are not finite because of this operation."""

    def ends_path(reader: Operation) -> bool:
        is_finite = all(result.not_finite is None for result in reader.results)
        return is_finite or is_in_backward_pass(reader)

    return _reaches_an_end(operation, ends_path)


def numbers_read(origin: Origin) -> list[np.ndarray]:
    """For each operand, the numbers that the element was computed from, in float64. Booleans and keys are left out."""
    operation = origin.operation
    elements = [np.zeros(np.shape(result.array), bool) for result in operation.results]
    elements[origin.result][origin.element] = True
    masks = read(operation, elements)
    return [
        np.real(np.asarray(operand.array)[mask]).astype(np.float64) if _is_number(operand) else np.zeros(0)
        for operand, mask in zip(operation.operands, masks, strict=True)
    ]


def _is_number(operand: Tracked) -> bool:
    return jnp.issubdtype(operand.array.dtype, jnp.inexact)


def _origins(operation: Operation, elements: Sequence[Mask], sources: Sequence[Mask]) -> Iterator[Origin]:
    """The origins at an operation: of the given elements of its results, from the given elements of its operands."""
    if operation.kind not in (ROW, ROWS):
        # Made of finite numbers alone; or NaN made of infinite numbers, such as ∞ - ∞, but not of another NaN.
        from_bad = affected(operation, [_not_finite(operand) for operand in operation.operands])
        from_nan = affected(operation, [_is_nan(operand) for operand in operation.operands])
        for number, result in enumerate(operation.results):
            made = elements[number] & ~from_bad[number]
            made_of_infinity = elements[number] & _is_nan(result) & from_bad[number] & ~from_nan[number]
            for kind, mask in (("made", made), ("made of infinity", made_of_infinity)):
                if mask.any():
                    yield Origin(operation, number, first_index(mask), kind)
    nothing = [np.zeros(np.shape(operand.array), bool) for operand in operation.operands]
    for number, (operand, mask) in enumerate(zip(operation.operands, sources, strict=True)):
        if operand.is_bad_constant and mask.any():
            kind = "constant" if (mask & _is_nan(operand)).any() else "infinite constant"
            made_of_it = affected(operation, [*nothing[:number], mask, *nothing[number + 1 :]])[0] & elements[0]
            yield Origin(operation, 0, first_index(made_of_it), kind)


def first_index(mask: Mask) -> Index:
    """The index of the first element of a mask that is true."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def _not_finite(value: Tracked) -> Mask:
    return np.zeros(np.shape(value.array), bool) if value.not_finite is None else value.not_finite


def _is_nan(value: Tracked) -> Mask:
    if not _is_number(value):
        return np.zeros(np.shape(value.array), bool)
    return np.asarray(np.isnan(np.asarray(value.array)))
