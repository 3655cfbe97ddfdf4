"""Base classes of textbook optimizer rules, gradient clipping, penalties, and the cosine schedule.

The letters are the same in every rule: w is a parameter, g its gradient, t the step, counted from 1. ``learning_rate``
is the size of a step; ``eps`` is added outside of a root, and ``eps_root`` inside. Every accumulator starts at 0 unless
a rule says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import cos, pi
from typing import Any, Self, TypeAlias

import numpy as np

Number: TypeAlias = Any
"""A hyper-parameter: a float, a NumPy number, ``Decimal`` or ``mpmath.mpf``. Python has no type for all of them."""
Array: TypeAlias = Any
"""A NumPy array of floating-point numbers, or of objects with +, -, *, / and ``sqrt()``, such as ``Decimal``."""
RuleState: TypeAlias = Any
"""The state that a rule keeps from step to step: numbers and arrays, in tuples and lists."""
Schedule: TypeAlias = Callable[[int], Number]
"""The learning rate as a function of the number of completed steps: 0 at the first step, as in Optax."""


@dataclass(frozen=True)
class TextbookRule:
    """An optimizer as in its paper: its state from step to step, and how it changes the parameters.

    A rule of your own is a dataclass like those below. All its numbers are fields, or integers in the code. Any other
    literal would be a binary fraction that Optax does not have, and ``Decimal`` numbers cannot be mixed with it.

    ``formula`` is the formula of the rule in the letters of the code. ``source`` says where it is published.
    """

    formula = ""
    source = ""

    @property
    def name(self) -> str:
        """The name in tables."""
        return type(self).__name__

    def start(self, parameters: Sequence[Array]) -> RuleState:
        """The state before the first step."""
        raise NotImplementedError

    def update(
        self, parameters: Sequence[Array], gradients: Sequence[Array], state: RuleState, step: int
    ) -> tuple[list[Array], RuleState]:
        """The parameters and the state after this step, counted from 1."""
        raise NotImplementedError

    def in_arithmetic(self, number: Callable[[float], Number]) -> Self:
        """The same rule with every hyper-parameter converted by ``number`` from a Python float, without rounding.

        >>> from decimal import Decimal; from functional_nn.gradients.textbook import GradientDescent
        >>> GradientDescent(0.5).in_arithmetic(Decimal)
        GradientDescent(learning_rate=Decimal('0.5'))
        """

        def convert(value: Number | Schedule | TextbookRule) -> Number | Schedule | TextbookRule:
            if isinstance(value, TextbookRule):
                return value.in_arithmetic(number)
            if callable(value):
                schedule: Schedule = value
                return lambda count: number(float(schedule(count)))
            return number(float(value))

        return replace(self, **{field.name: convert(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class LeafRule(TextbookRule):
    """A rule that treats every array of parameters by itself: ``w = w - learning_rate * direction``.

    ``learning_rate`` is a number or a schedule. A schedule counts the steps done, from 0, as Optax does; papers write
    alpha_t with t = 1 at the first step.
    """

    learning_rate: Number | Schedule

    def rate(self, t: int) -> Number:
        """The learning rate of step t."""
        return self.learning_rate(t - 1) if callable(self.learning_rate) else self.learning_rate

    def start_leaf(self, w: Array) -> RuleState:
        """The state of one array before the first step."""
        return ()

    def direction(self, w: Array, g: Array, state: RuleState, t: int) -> tuple[Array, RuleState]:
        """The direction of step t, which the learning rate multiplies, and the state after it."""
        raise NotImplementedError

    def update_leaf(self, w: Array, g: Array, state: RuleState, t: int) -> tuple[Array, RuleState]:
        """One array and its state after step t."""
        direction, state = self.direction(w, g, state, t)
        return w - self.rate(t) * direction, state

    def start(self, parameters):
        return [self.start_leaf(w) for w in parameters]

    def update(self, parameters, gradients, state, step):
        updated = [
            self.update_leaf(w, g, leaf_state, step)
            for w, g, leaf_state in zip(parameters, gradients, state, strict=True)
        ]
        return [w for w, _ in updated], [leaf_state for _, leaf_state in updated]


@dataclass(frozen=True)
class ChangedGradients(TextbookRule):
    """Base class of rules that change the gradients before another rule uses them."""

    rule: TextbookRule

    def changed(self, parameters: Sequence[Array], gradients: Sequence[Array]) -> list[Array]:
        """The gradients that the rule uses."""
        raise NotImplementedError

    @property
    def name(self):
        return f"{type(self).__name__} {self.rule.name}"

    def start(self, parameters):
        return self.rule.start(parameters)

    def update(self, parameters, gradients, state, step):
        return self.rule.update(parameters, self.changed(parameters, gradients), state, step)


@dataclass(frozen=True)
class Clipped(ChangedGradients):
    """Scales the gradients down to ``max_norm`` if their common norm is larger."""

    max_norm: Number

    formula = "g = g max_norm / norm(g) where norm(g) >= max_norm, of all gradients together"
    source = "Pascanu, Mikolov, Bengio 2013, Algorithm 1"

    def changed(self, parameters, gradients):
        size = norm(*gradients)
        if size >= self.max_norm:
            return [g * self.max_norm / size for g in gradients]
        return list(gradients)


@dataclass(frozen=True)
class Penalized(ChangedGradients):
    """Adds the gradient of the penalty l1 sum |w| + l2/2 sum w² on all parameters.

    With plain gradient descent, l2 is the same as weight decay. With rules that divide by the gradient's size it is
    not.
    """

    l1: Number = 0.0
    l2: Number = 0.0

    formula = "g = g + l1 sign(w) + l2 w"
    source = "Goodfellow, Bengio, Courville 2016, sections 7.1.1 and 7.1.2; sign(0) = 0"

    def changed(self, parameters, gradients):
        return [g + self.l1 * np.sign(w) + self.l2 * w for w, g in zip(parameters, gradients, strict=True)]


def norm(*arrays: Array) -> Number:
    """The Euclidean norm of all elements of all arrays together."""
    return np.sqrt(sum(np.sum(array * array) for array in arrays))


def mean(b: Number, old: Array, new: Array) -> Array:
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
