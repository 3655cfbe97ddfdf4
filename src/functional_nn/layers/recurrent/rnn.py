"""The simple (Elman) recurrent layer and its cell."""

from __future__ import annotations

from collections.abc import Callable

import jax

from functional_nn.activations.activation_types import Activation, as_activation
from functional_nn.activations.smooth import tanh
from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import without_input_size
from functional_nn.core.validation import check_count
from functional_nn.layers.initializers import Initializer
from functional_nn.layers.recurrent.starting_parameters import parameter_shapes, starting_parameters
from functional_nn.layers.recurrent.unrolling import (
    InitialState,
    Recurrence,
    Returns,
    one_step,
    over_time,
    weights_and_bias_bar,
)


@without_input_size("hidden_size")
def rnn(
    hidden_size: int,
    *,
    activation: Activation | Callable[[jax.Array], jax.Array] = tanh,
    returns: Returns = "last",
    initial_state: InitialState = "zeros",
    initializer: Initializer = "glorot",
    name: str = "rnn",
) -> Layer:
    """A simple (Elman) recurrent layer over time: each h is computed from the input and the previous h.

    Math:
        For every step t: a = xₜ W + b + hₜ₋₁ U, hₜ = f(a)

    Shapes:
        x (batch, time, in_size), or ``Masked``; h (batch, hidden_size); y (batch, hidden_size) for the last h,
        (batch, time, hidden_size) for all; input_weight W (in_size, hidden_size), hidden_weight U
        (hidden_size, hidden_size), bias b (hidden_size,)

    Gradient:
        Backpropagation through time, from the last step to the first. hₜ reaches the loss through y and through step
        t + 1, so hₜ_bar is the sum of yₜ_bar and of what step t + 1 gives back. In step t:

        1. hₜ = f(a): a_bar = f'(a) hₜ_bar
        2. a = xₜ W + b + hₜ₋₁ U: hₜ₋₁_bar = a_bar Uᵀ, xₜ_bar = a_bar Wᵀ

        W, U and b are the same in every step. Their cotangents are sums over steps and examples, each one product:

        input_weight_bar = Σₜ xₜᵀ a_barₜ, hidden_weight_bar = Σₜ hₜ₋₁ᵀ a_barₜ, bias_bar = Σₜ a_barₜ

    A masked step does not change h, so h_bar is passed on unchanged. The y and a_bar of this step are 0.

    Args:
        hidden_size: the size of h.
        activation: f; any ``Activation``, or a plain function (which has no hand-derived formula).
        returns: ``"last"``, the last h, or ``"sequence"``, all of them.
        initial_state: ``"zeros"``; ``"learned"``, the parameter initial_hidden; or ``"given"``, where x is
            (sequence, h).
        initializer: of W; U is orthogonal. ``"pytorch"`` draws everything from U(±1/√hidden_size).
        name: used in parameter trees and in error messages.

    >>> import jax.numpy as jnp
    >>> layer = rnn(3, returns="sequence")
    >>> params, state = layer.init(jax.random.key(0), (7, 2))
    >>> layer.apply(params, state, jnp.ones((5, 7, 2)), train=False)[0].shape
    (5, 7, 3)

    References:
        Elman 1990, "Finding structure in time"; Werbos 1990, "Backpropagation through time".
    """
    return over_time(_recurrence(hidden_size, activation, initializer), returns, initial_state, name)


@without_input_size("hidden_size")
def rnn_cell(
    hidden_size: int,
    *,
    activation: Activation | Callable[[jax.Array], jax.Array] = tanh,
    initializer: Initializer = "glorot",
    name: str = "rnn_cell",
) -> Layer:
    """One step of a simple recurrent layer: (input, h) to the next h.

    Math:
        ``rnn``'s, for one t: y = hₜ of x = (xₜ, hₜ₋₁)

    Shapes:
        xₜ (batch, in_size), h (batch, hidden_size); the parameters are ``rnn``'s

    Gradient:
        Steps 1 and 2 of ``rnn``, with the cotangent of hₜ given.

    Args:
        hidden_size: the size of h.
        activation: as for ``rnn``.
        initializer: as for ``rnn``.
        name: used in parameter trees and in error messages.

    >>> import jax.numpy as jnp
    >>> layer = rnn_cell(3)
    >>> params, state = layer.init(jax.random.key(0), ((2,), (3,)))
    >>> layer.apply(params, state, (jnp.ones((5, 2)), jnp.zeros((5, 3))), train=False)[0].shape
    (5, 3)
    """
    return one_step(_recurrence(hidden_size, activation, initializer), name)


def _recurrence(hidden_size, activation, initializer) -> Recurrence:
    hidden_size, activation = check_count("hidden_size", hidden_size), as_activation(activation)

    def init(key, in_size):
        return starting_parameters(key, in_size, hidden_size, 1, initializer)

    def forward(params, p, h):
        a = p + h @ params["hidden_weight"]
        return activation(a), (h, a)

    def backward(params, saved, h_bar):
        _h, a = saved
        a_bar = activation.pullback(a, h_bar)
        return (a_bar,), a_bar @ params["hidden_weight"].T

    def params_bar(x, saved, bars):
        h, _a = saved
        (a_bar,) = bars
        return weights_and_bias_bar({"hidden_weight": h, "input_weight": x}, a_bar)

    shapes = parameter_shapes("in_size", hidden_size, 1)
    return Recurrence(hidden_size, 1, shapes, init, forward, backward, params_bar)
