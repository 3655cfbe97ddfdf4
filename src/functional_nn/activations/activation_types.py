"""The types of activations: functions with a hand-derived derivative or pullback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from functional_nn import names
from functional_nn.core.errors import FormulaMissing, check
from functional_nn.core.layer import Layer, stateless
from functional_nn.core.validation import (
    as_array,
    check_choice,
    check_floating,
    in_native_order,
    is_array,
    is_concrete,
    is_function,
)


@dataclass(frozen=True, eq=False)
class Activation:
    """A function that is applied to each element separately, and its derivative.

    Args:
        name: used in error messages, summaries and flags.
        function: f, from an array to one of the same shape.
        derivative: f', derived by hand; at a kink of f, the value chosen there.
        formula: f(x) and f'(x), as text.
        parameters: numbers in the formula, which may be traced. Both functions take them after x.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> square = fnn.Activation("square", lambda x: x * x, lambda x: 2 * x)
    >>> print(square(jnp.array(3.0)), square.derivative(jnp.array(3.0)))
    9.0 6.0
    """

    name: str
    function: Callable[..., jax.Array]
    derivative: Callable[..., jax.Array]
    formula: str = ""
    parameters: tuple[float | jax.Array, ...] = ()

    def __post_init__(self):
        # Neither a lambda nor an object such as a functools.partial has a docstring about this derivative.
        is_named = getattr(self.derivative, "__name__", "<lambda>") != "<lambda>"
        steps = (self.derivative.__doc__ or "") if is_named else ""
        if self.formula:
            _set_docstring(self, f"{self.name}: {self.formula}\n\nThe derivative, by hand: {steps}")
        # A call with x alone uses the activation's parameters. A layer's backward pass gives those of its residuals.
        derivative = self.derivative
        object.__setattr__(
            self,
            "derivative",
            lambda x, *given: derivative(jnp.asarray(in_native_order(x)), *(given or self.parameters)),
        )

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"

    def __call__(self, x: jax.Array | None = None) -> jax.Array:
        """Computes f(x), element by element."""
        _check_given(self.name, x)
        x = as_array("x", x)
        check_floating(x)
        y = self.function(x, *self.parameters)
        check(f"{self.name}(x)", y, f"an array of the shape of x, {x.shape}", is_array(y) and y.shape == x.shape)
        return y

    def pullback(self, x: jax.Array, y_bar: jax.Array) -> jax.Array:
        """The cotangent of x: f'(x) y_bar."""
        return self.derivative(x) * in_native_order(y_bar)

    def as_layer(self) -> Layer:
        """Makes a layer of the activation, as combinators do. Its parameters are among the residuals."""

        def forward(x):
            return self(x), (x, *map(jnp.asarray, self.parameters))

        return stateless(self.name, forward, lambda residuals, y_bar: self.derivative(*residuals) * y_bar)


@dataclass(frozen=True, eq=False)
class VectorActivation:
    """A function of all elements of the last axis together, and its pullback in place of a derivative.

    Args:
        name: used in error messages, summaries and flags.
        function: f, from an array to one of the same shape.
        pullback: ``pullback(x, y_bar) -> x_bar``, the product with the transposed Jacobian, derived by hand.
        formula: f(x) and the pullback, as text.
    """

    name: str
    function: Callable[[jax.Array], jax.Array]
    pullback: Callable[[jax.Array, jax.Array], jax.Array]
    formula: str = ""

    def __post_init__(self):
        _set_docstring(self, f"{self.name}: {self.formula}\n\nThe pullback, by hand: {self.pullback.__doc__}")
        pullback = self.pullback
        object.__setattr__(self, "pullback", lambda x, y_bar: pullback(in_native_order(x), in_native_order(y_bar)))

    def __repr__(self) -> str:
        return f"VectorActivation({self.name!r})"

    def __call__(self, x: jax.Array | None = None) -> jax.Array:
        """Computes f(x), over the last axis."""
        _check_given(self.name, x)
        x = as_array("x", x)
        check_floating(x)
        check("x", x, "an array with an axis to act along", x.ndim)
        return self.function(x)

    def as_layer(self) -> Layer:
        """Makes a layer of the activation, as combinators do."""
        return stateless(self.name, lambda x: (self(x), x), self.pullback)


def _check_given(name: str, x: object) -> None:
    """Requires an argument. Somebody who writes ``chain(dense(10), relu())`` means the activation itself."""
    check("x", x, "an array", x is not None, f"In a network, write {name} without parentheses.")


def _set_docstring(activation: Activation | VectorActivation, text: str) -> None:
    """Makes ``help(relu)`` describe ReLU and not the class."""
    object.__setattr__(activation, "__doc__", text)


def as_activation(value: Activation | Callable[[jax.Array], jax.Array]) -> Activation:
    """Returns an activation unchanged, and makes one without a derivative of a plain function.

    Raises:
        InputError: for an activation with traced parameters. A layer would keep them for its backward pass, which may
            run after their trace has ended.
    """
    if isinstance(value, Activation):
        remedy = f"Put it after the layer: chain(…, {value.name}_with(…))."
        is_known = is_concrete(*value.parameters)
        check("activation", value, "an activation without traced parameters", is_known, remedy)
        return value
    is_of_elements = is_function(value) and not isinstance(value, VectorActivation)
    check("activation", value, "a function that is applied to each element separately", is_of_elements)
    name = getattr(value, "__name__", "function").strip("<>")

    def no_derivative(x):
        raise FormulaMissing(f"{name} is a plain function: give its derivative with Activation({name!r}, …).")

    return Activation(name, value, no_derivative)


ACTIVATIONS: Mapping[str, Activation | VectorActivation] = names.ACTIVATIONS
"""Every activation by its name, as flags and configurations use it."""


def activation(name: str) -> Activation | VectorActivation:
    """Looks up an activation by its name.

    >>> import functional_nn as fnn
    >>> fnn.activations.activation("relu").formula
    "f(x) = max(x, 0), f'(x) = 1 if x > 0 else 0"
    """
    return ACTIVATIONS[check_choice("activation", name, ACTIVATIONS)]
