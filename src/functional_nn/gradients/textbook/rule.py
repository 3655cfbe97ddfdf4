"""What a textbook rule is, what can stand in front of one, and the schedule.

The letters are the same in every rule: w a parameter, g its gradient, t the step, counted from 1, ``learning_rate``
the step's size, ``eps`` what is added outside of a root and ``eps_root`` what is added inside. Every accumulator
starts at 0 unless a rule says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import cos, pi
from typing import Any, Self, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A NumPy array of floating numbers, or of objects with +, -, *, / and ``sqrt()``: ``Decimal``, ``mpmath.mpf``."""


@dataclass(frozen=True)
class TextbookRule:
    """What an optimizer keeps, and how it moves the parameters: a list of arrays, a list of gradients, a step.

    A rule of your own is a dataclass like those below. Its numbers are its fields, or whole: any other literal would be
    a binary fraction that Optax does not see, and an exact number refuses to be mixed with it.

    ``formula`` and ``source`` say what it computes, in the letters of the code, and where that is written.
    """

    formula = ""
    source = ""

    @property
    def name(self) -> str:
        """What tables call the rule."""
        return type(self).__name__

    def start(self, parameters: Sequence[Array]) -> Any:
        """The state before the first step."""
        raise NotImplementedError

    def update(
        self, parameters: Sequence[Array], gradients: Sequence[Array], state: Any, step: int
    ) -> tuple[list[Array], Any]:
        """The parameters and the state after the step of that number, counted from 1."""
        raise NotImplementedError

    def in_arithmetic(self, number: Callable[[float], Any]) -> Self:
        """The same rule with every hyper-parameter as ``number`` makes it of a Python float, without rounding.

        >>> from decimal import Decimal; from functional_nn.gradients.textbook import GradientDescent
        >>> GradientDescent(0.5).in_arithmetic(Decimal)
        GradientDescent(learning_rate=Decimal('0.5'))
        """

        def convert(value: Any) -> Any:
            if isinstance(value, TextbookRule):
                return value.in_arithmetic(number)
            if callable(value):
                schedule: Callable[[int], Any] = value
                return lambda count: number(float(schedule(count)))
            return number(float(value))

        return replace(self, **{field.name: convert(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class LeafRule(TextbookRule):
    """A rule that treats every parameter array alone: ``w = w - learning_rate * direction``.

    ``learning_rate`` is a number, or a schedule: a function of how many steps are done, 0 at the first one, as Optax
    counts for its schedules (where the papers write alpha_t with t = 1 at the first step).
    """

    learning_rate: Any

    def rate(self, t: int) -> Any:
        """The learning rate of step t."""
        return self.learning_rate(t - 1) if callable(self.learning_rate) else self.learning_rate

    def start_leaf(self, w: Array) -> Any:
        """What is kept for one array before the first step."""
        return ()

    def direction(self, w: Array, g: Array, state: Any, t: int) -> tuple[Array, Any]:
        """What the learning rate is multiplied by, and the state after the step."""
        raise NotImplementedError

    def update_leaf(self, w: Array, g: Array, state: Any, t: int) -> tuple[Array, Any]:
        """One array and its state after step t."""
        direction, state = self.direction(w, g, state, t)
        return w - self.rate(t) * direction, state

    def start(self, parameters):
        return [self.start_leaf(w) for w in parameters]

    def update(self, parameters, gradients, state, step):
        moved = [self.update_leaf(w, g, kept, step) for w, g, kept in zip(parameters, gradients, state, strict=True)]
        return [w for w, _ in moved], [kept for _, kept in moved]


@dataclass(frozen=True)
class InFront(TextbookRule):
    """Something that changes the gradients before a rule follows them."""

    rule: TextbookRule

    def changed(self, parameters: Sequence[Array], gradients: Sequence[Array]) -> list[Array]:
        """The gradients that the rule sees."""
        raise NotImplementedError

    @property
    def name(self):
        return f"{type(self).__name__} {self.rule.name}"

    def start(self, parameters):
        return self.rule.start(parameters)

    def update(self, parameters, gradients, state, step):
        return self.rule.update(parameters, self.changed(parameters, gradients), state, step)


@dataclass(frozen=True)
class Clipped(InFront):
    """Gradients whose common norm is ``max_norm`` or more are scaled down to it."""

    max_norm: Any

    formula = "g = g max_norm / norm(g) where norm(g) >= max_norm, of all gradients together"
    source = "Pascanu, Mikolov, Bengio 2013, Algorithm 1"

    def changed(self, parameters, gradients):
        size = norm(*gradients)
        return [g * self.max_norm / size for g in gradients] if size >= self.max_norm else list(gradients)


@dataclass(frozen=True)
class Penalized(InFront):
    """The loss has the penalty l1 sum |w| + l2/2 sum w² on all parameters.

    With plain gradient descent, l2 is the same as weight decay; with rules that divide by the gradient's size it
    is not.
    """

    l1: Any = 0.0
    l2: Any = 0.0

    formula = "g = g + l1 sign(w) + l2 w"
    source = "Goodfellow, Bengio, Courville 2016, sections 7.1.1 and 7.1.2; sign(0) = 0"

    def changed(self, parameters, gradients):
        return [g + self.l1 * np.sign(w) + self.l2 * w for w, g in zip(parameters, gradients, strict=True)]


def norm(*arrays: Array) -> Any:
    """The Euclidean norm of all elements of all arrays together."""
    return np.sqrt(sum(np.sum(array * array) for array in arrays))


def mean(b: Any, old: Array, new: Array) -> Array:
    """The exponential moving average: b old + (1 - b) new."""
    return b * old + (1 - b) * new


def cosine(learning_rate: float, steps: int) -> Callable[[int], float]:
    """The schedule learning_rate (1 + cos(pi count / steps)) / 2, from the learning rate down to 0.

    >>> rate = cosine(0.5, 10)
    >>> rate(0), round(rate(5), 3), rate(10)
    (0.5, 0.25, 0.0)

    References:
        Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5, one period.
    """
    return lambda count: learning_rate * (1 + cos(pi * min(count, steps) / steps)) / 2
