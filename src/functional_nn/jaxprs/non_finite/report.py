"""The result of the search for a number that is not finite."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from functional_nn.core.display import html_text

WIDTH = 110

IN_WORDS = {
    "convert_element_type": "a conversion to another type",
    "dot_general": "a matrix product",
    "integer_pow": "a power",
    "reduce_sum": "a sum",
    "select_n": "a choice, as by jnp.where",
}
"""Descriptions of primitives whose names are not clear."""


@dataclass(frozen=True)
class OperandValues:
    """The numbers of an operand from which one element of a result was computed.

    Args:
        dtype: the operand's type.
        shape: the operand's shape.
        smallest, largest: the smallest and the largest of these numbers. They are equal if there is one.
    """

    dtype: str
    shape: tuple[int, ...]
    smallest: float
    largest: float

    def __str__(self) -> str:
        if self.smallest == self.largest or self.smallest != self.smallest:
            return f"{self.smallest:.6g}"
        return f"({self.smallest:.6g} to {self.largest:.6g})"


@dataclass(frozen=True)
class NonFinite:
    """Where a NaN or an infinite number comes from. It prints as a few lines, and is true if there is such a number.

    Args:
        affected: the paths of the results that are not finite, such as ``loss``; empty if all results are finite.
        argument: the path of the argument that is not finite, such as ``params/dense_0/weight``; "" if an operation
            made the number.
        in_batch: whether this argument is a batch of the training data, in which the index counts.
        operation: the first operation with such a result, by the name of JAX's primitive, such as ``log``.
        layer: the path of its layer, such as ``residual_0/dense_1``; "" outside of layers.
        stage: ``"forward pass"``, ``"backward pass"``, or, in a run of ``fit``, ``"optimizer's update"``; "" for an
            argument or a constant.
        derivative_of: in the backward pass, the operations of the forward pass that it differentiates, if known.
        place: the source line, as ``file.py:12 (function)``.
        code: the text of this line.
        called_from: the line of your code that calls it, if ``place`` is in an installed package.
        inside: the function of JAX that the operation is a part of, such as ``norm``.
        steps: for each loop around it, from the outermost, its kind and the number of the step, from 0.
        index: the index of the first such element, in the operation's result or in the argument.
        value: this element: NaN or infinite.
        dtype, shape: the type and the shape of this array.
        count: how many of its elements are not finite.
        operands: what the element was computed from.
        cause: the likely cause, as a sentence.
        remedy: what to do, as a sentence.
        note: a further sentence, such as about very large parameters.
    """

    affected: tuple[str, ...] = ()
    argument: str = ""
    in_batch: bool = False
    operation: str = ""
    layer: str = ""
    stage: str = ""
    derivative_of: tuple[str, ...] = ()
    place: str = ""
    code: str = ""
    called_from: str = ""
    inside: str = ""
    steps: tuple[tuple[str, int], ...] = ()
    index: tuple[int, ...] = ()
    value: complex = 0.0
    dtype: str = ""
    shape: tuple[int, ...] = ()
    count: int = 0
    operands: tuple[OperandValues, ...] = ()
    cause: str = ""
    remedy: str = ""
    note: str = ""

    @property
    def found(self) -> bool:
        """Whether a result is not finite."""
        return bool(self.affected)

    def __bool__(self) -> bool:
        return self.found

    @property
    def sentence(self) -> str:
        """The origin and its cause, in one or two sentences."""
        if not self.found:
            return "All results are finite."
        if self.argument:
            of_batch = " of this batch" if self.in_batch else ""
            return f"{self._element} of the argument {self.argument}{of_batch} is {self.value}. {self.cause}".strip()
        place = f" ({self.place})" if self.place else ""
        return f"{self._origin}{place}: {self.equation_in_words}. {self.cause}"

    @property
    def operation_in_words(self) -> str:
        """The operation with its pass, layer and loops, in words."""
        words = self.operation
        if self.operation in IN_WORDS:
            words += f" ({IN_WORDS[self.operation]})"
        if self.inside and self.inside != self.operation:
            words += f", a part of {self.inside}"
        if self.derivative_of:
            words += f", in the derivative of {' or '.join(self.derivative_of)}"
        words += f", in the {self.stage}"
        if self.layer:
            words += f" of {self.layer}"
        for kind, step in self.steps:
            words += f", in step {step} of a {kind}"
        return words

    @property
    def _origin(self) -> str:
        if not self.stage:
            return f"The first such number is {self.operation}"
        return f"The first such number was made by {self.operation_in_words}"

    @property
    def _element(self) -> str:
        return f"Element {self.index}" if self.index else "The number"

    @property
    def equation_in_words(self) -> str:
        """The operation with its numbers, such as ``log(0) = -inf``."""
        if not self.stage:
            return f"{self.value}"
        operands = ", ".join(map(str, self.operands)) or "…"
        return f"{self.operation}({operands}) = {self.value}"

    def __str__(self) -> str:
        if not self.found:
            return self.sentence
        origin = self._argument_lines() if self.argument else self._operation_lines()
        texts = [f"Cause: {self.cause}", f"Remedy: {self.remedy}", self.note]
        explained = [textwrap.fill(text, WIDTH, break_on_hyphens=False) for text in texts if text]
        return "\n".join([f"Not finite: {_listed(self.affected)}.", "", *origin, "", *explained])

    def _argument_lines(self) -> list[str]:
        array = "; ".join(text for text in (self._array, self._count) if text)
        return [f"The argument {self.argument} is not finite ({array}).", f"  {self._element} is {self.value}."]

    def _operation_lines(self) -> list[str]:
        lines = [self._origin]
        if self.place:
            caller = f", called from {self.called_from}" if self.called_from else ""
            lines.append(f"  at {self.place}{caller}")
        if self.code:
            lines.append(f"     {self.code}")
        if self.shape:
            lines.append(f"  element {self.index} of a {self._array}: {self.equation_in_words} ({self._count})")
        else:
            lines.append(f"  {self.equation_in_words}")
        return lines

    @property
    def _array(self) -> str:
        """The type and the shape of the array with the element."""
        return f"{self.dtype} of shape {self.shape}" if self.shape else f"one {self.dtype}"

    @property
    def _count(self) -> str:
        """How many elements of the array are not finite; "" for a single number."""
        if not self.shape:
            return ""
        return f"{self.count:,} of its elements are not finite" if self.count > 1 else "no other element is"

    __repr__ = __str__
    _repr_html_ = html_text


def _listed(paths: tuple[str, ...]) -> str:
    """The paths as a list with at most five entries."""
    shown = ", ".join(paths[:5])
    return shown if len(paths) <= 5 else f"{shown} and {len(paths) - 5} more"
