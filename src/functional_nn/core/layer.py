"""The one abstraction: a layer is three pure functions over plain pytrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.tree_util import Partial

from functional_nn.core.errors import FormulaMissing, InputError, inside
from functional_nn.core.layer_checks import check_key, check_trees
from functional_nn.core.masked import Masked
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import check_arrays, check_flag, is_array, is_numeric, shown, tree_in_native_order

Params: TypeAlias = Mapping[str, Any]
State: TypeAlias = Mapping[str, Any]
Residuals: TypeAlias = Any


class Layer(NamedTuple):
    """What a network starts as, what it computes, and how its gradient flows back.

    Args:
        name: used in parameter trees and in error messages.
        init: ``init(key, in_shape) -> (params, state)``; ``in_shape`` leaves out the batch axis.
        forward: ``forward(params, state, x, *, train, key=None) -> (y, state, residuals)``; ``x`` has one
            leading batch axis, and ``residuals``, a pytree of arrays, is what the backward pass needs.
        backward: ``backward(residuals, y_bar) -> (params_bar, x_bar)``, derived by hand from the formula. It
            never calls JAX's automatic differentiation, so that it can be compared with it.
        takes_mask: whether ``forward`` knows ``Masked`` sequences; combinators give other layers the values alone.

    >>> import functional_nn as fnn
    >>> layer = fnn.dense(2)
    >>> params, state = layer.init(jax.random.key(0), (3,))
    >>> y, state = layer.apply(params, state, jnp.ones((5, 3)), train=False)
    >>> y.shape
    (5, 2)
    """

    name: str
    init: Callable[[Any, Shape], tuple[Params, State]]
    forward: Callable[..., tuple[Any, State, Residuals]]
    backward: Callable[[Residuals, Any], tuple[Params, Any]]
    takes_mask: bool = False

    def __repr__(self) -> str:
        return f"Layer({self.name!r})"

    def apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        """The forward pass without its residuals: ``(y, state)``. What ``jax.grad`` differentiates."""
        params, state, x = _check_call(self, params, state, x, train, key)
        y, state, _ = self.forward(params, state, x, train=train, key=key)
        return y, state

    def vjp(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State, Partial]:
        """The forward pass and the hand-derived pullback: ``(y, state, pullback)``, in the shape of ``jax.vjp``.

        ``pullback(y_bar)`` gives ``(params_bar, x_bar)``. It is a pytree, so it passes through ``jit``,
        ``vmap`` and ``scan`` like any value.
        """
        params, state, x = _check_call(self, params, state, x, train, key)
        y, state, residuals = self.forward(params, state, x, train=train, key=key)
        return y, state, Partial(Pullback(self.backward, _shapes(y)), residuals)


class Pullback(NamedTuple):
    """A layer's backward pass that refuses cotangents of another shape than the output's."""

    backward: Callable[[Residuals, Any], tuple[Params, Any]]
    shapes: tuple[Any, ...]

    def __call__(self, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
        given = _shapes(y_bar)
        if given != self.shapes:
            expected = f"what the output is, of shape {_listed(self.shapes)}"
            raise InputError("y_bar", expected, _listed(given) or shown(y_bar))
        return self.backward(residuals, tree_in_native_order(y_bar))


def _shapes(y: Any) -> tuple[Any, ...]:
    """The shape of each array in an output or its cotangent, in a tuple of its own where it is masked."""
    if isinstance(y, Masked):
        return tuple((shape,) for shape in _shapes(y.values))
    if isinstance(y, tuple):
        return tuple(shape for part in y for shape in _shapes(part))
    return (y.shape,) if is_array(y) and is_numeric(y) else (shown(y),)


def _listed(shapes: tuple[Any, ...]) -> str:
    return ", ".join(f"{shape[0]}, masked" if shape and isinstance(shape[0], tuple) else str(shape) for shape in shapes)


def _check_call(layer: Layer, params: Any, state: Any, x: Any, train: Any, key: Any) -> tuple[Any, Any, Any]:
    """Refuses what no layer takes; what this one takes it looks at itself. Gives back params, state and x."""
    check_trees(params, state)
    check_arrays("x", x)
    if isinstance(x, Masked) and not layer.takes_mask:
        expected = f"one array, since {layer.name} knows no masks"
        raise InputError("x", expected, "a masked sequence", "Put it into a chain, which carries the mask on.")
    check_flag("train", train, "Under jit it is static: jax.jit(…, static_argnames='train').")
    if key is not None:
        check_key(key)
    return tree_in_native_order((params, state, x))


def stateless(
    name: str,
    forward: Callable[[jax.Array], tuple[jax.Array, Residuals]],
    backward: Callable[[Residuals, jax.Array], jax.Array],
) -> Layer:
    """A layer of ``x -> (y, residuals)`` and ``residuals, y_bar -> x_bar``, without parameters, state or randomness."""

    def layer_forward(params, state, x, *, train, key=None):
        y, residuals = forward(x)
        return y, state, residuals

    return Layer(
        name,
        init=lambda key, in_shape: ({}, {}),
        forward=layer_forward,
        backward=lambda residuals, y_bar: ({}, backward(residuals, y_bar)),
    )


def as_layer(value: Any) -> Layer:
    """Takes a layer as it is, an activation as a layer, and any function ``x -> y`` as a layer without a formula."""
    if isinstance(value, Layer):
        return value
    if hasattr(value, "as_layer"):
        return value.as_layer()
    expected = "layers, activations or functions of one array"
    if not callable(value):
        remedy = "Write chain(*layers)." if isinstance(value, list | tuple) else ""
        raise InputError("layers", expected, repr(value), remedy)
    name = getattr(value, "__name__", "function").strip("<>")
    if (getattr(value, "__module__", "") or "").startswith("functional_nn.layers"):
        raise InputError("layers", expected, f"the function {name}, which makes one", f"Write {name}(…).")

    def no_formula(residuals, y_bar):
        raise FormulaMissing(
            f"{name} is a plain function without a hand-derived backward pass: use jax.grad of apply, or give "
            f"its derivative with functional_nn.Activation({name!r}, function, derivative)."
        )

    function: Callable[[Any], Any] = value

    def forward(x):
        y = function(x)
        with inside(name):
            check_arrays("y", y)
        return y, ()

    return stateless(name, forward, no_formula)
