"""An activation: a function with its hand-derived derivative, as a value that is called and composed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from functional_nn.core.errors import FormulaMissing, InputError
from functional_nn.core.layer import Layer, stateless
from functional_nn.core.layer_checks import check_floating, is_concrete
from functional_nn.core.validation import as_array, in_native_order, is_array, is_function, shown


@dataclass(frozen=True, eq=False)
class Activation:
    """A function that acts on every element alone, with its derivative.

    Args:
        name: used in error messages, summaries and flags.
        function: f, from an array to one of the same shape.
        derivative: f', derived by hand; where f has a kink, the value chosen there.
        formula: f(x) and f'(x), as text.
        parameters: numbers in the formula that may be traced; both functions take them after x.

    >>> square = Activation("square", lambda x: x * x, lambda x: 2 * x)
    >>> print(square(jnp.array(3.0)), square.derivative(jnp.array(3.0)))
    9.0 6.0
    """

    name: str
    function: Callable[..., jax.Array]
    derivative: Callable[..., jax.Array]
    formula: str = ""
    parameters: tuple[float | jax.Array, ...] = ()

    def __post_init__(self):
        steps = self.derivative.__doc__ if self.derivative.__doc__ and self.derivative.__name__ != "<lambda>" else ""
        _describe(self, f"{self.name}: {self.formula}\n\nThe derivative, by hand: {steps}" if self.formula else "")
        derivative = self.derivative
        object.__setattr__(
            self,
            "derivative",
            lambda x, *given: derivative(jnp.asarray(in_native_order(x)), *(given or self.parameters)),
        )

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"

    def __call__(self, x: jax.Array) -> jax.Array:
        """f(x), element by element."""
        x = as_array("x", x)
        check_floating(x)
        y = self.function(x, *self.parameters)
        if not is_array(y) or y.shape != x.shape:
            raise InputError(f"{self.name}(x)", f"an array of the shape of x, {x.shape}", shown(y))
        return y

    def pullback(self, x: jax.Array, y_bar: jax.Array) -> jax.Array:
        """The cotangent of x: f'(x) y_bar."""
        return self.derivative(x) * in_native_order(y_bar)

    def as_layer(self) -> Layer:
        """The activation as a layer, which is what combinators make of it; its parameters are among the residuals."""
        return stateless(
            self.name,
            lambda x: (self(x), (x, *map(jnp.asarray, self.parameters))),
            lambda residuals, y_bar: self.derivative(*residuals) * y_bar,
        )


@dataclass(frozen=True, eq=False)
class VectorActivation:
    """A function that couples the elements of the last axis, with its pullback in place of a derivative.

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
        _describe(self, f"{self.name}: {self.formula}\n\nThe pullback, by hand: {self.pullback.__doc__}")
        pullback = self.pullback
        object.__setattr__(self, "pullback", lambda x, y_bar: pullback(in_native_order(x), in_native_order(y_bar)))

    def __repr__(self) -> str:
        return f"VectorActivation({self.name!r})"

    def __call__(self, x: jax.Array) -> jax.Array:
        """f(x), over the last axis."""
        x = as_array("x", x)
        check_floating(x)
        if not x.ndim:
            raise InputError("x", "an array with an axis to act along", shown(x))
        return self.function(x)

    def as_layer(self) -> Layer:
        """The activation as a layer, which is what combinators make of it."""
        return stateless(self.name, lambda x: (self(x), x), self.pullback)


def _describe(activation: Activation | VectorActivation, text: str) -> None:
    """Lets ``help(relu)`` tell of ReLU, not of activations."""
    if text:
        object.__setattr__(activation, "__doc__", text)


def as_activation(value: Activation | Callable[[jax.Array], jax.Array]) -> Activation:
    """Takes an activation as it is, and a plain function as one whose derivative is not known.

    Refuses traced parameters: the backward pass of the layer that asks would hold them outside of their trace.
    """
    if isinstance(value, Activation):
        if not is_concrete(*value.parameters):
            remedy = f"Put it after the layer: chain(…, {value.name}_with(…))."
            raise InputError("activation", "one without traced parameters", value.name, remedy)
        return value
    if isinstance(value, VectorActivation) or not is_function(value):
        raise InputError("activation", "a function of every element alone", getattr(value, "name", repr(value)))
    name = getattr(value, "__name__", "function").strip("<>")

    def no_derivative(x):
        raise FormulaMissing(f"{name} is a plain function: give its derivative with Activation({name!r}, …).")

    return Activation(name, value, no_derivative)
