"""Long short-term memory (LSTM): the layer and its cell."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import without_input_size
from functional_nn.core.validation import check_count, check_number
from functional_nn.layers.initializers import Initializer
from functional_nn.layers.recurrent.gates import gate_derivative, tanh_derivative
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
def lstm(
    hidden_size: int,
    *,
    forget_bias: float | jax.Array | None = None,
    returns: Returns = "last",
    initial_state: InitialState = "zeros",
    initializer: Initializer = "glorot",
    name: str = "lstm",
) -> Layer:
    """Long short-term memory over time: gates control what the cell state forgets, stores and outputs.

    Math:
        For every step t, with the four parts of a in the order of PyTorch's:

        a = xₜ W + b + hₜ₋₁ U, [aᵢ, a_f, a_g, aₒ] = a,
        i = σ(aᵢ), f = σ(a_f), g = tanh(a_g), o = σ(aₒ),
        cₜ = f cₜ₋₁ + i g, hₜ = o tanh(cₜ)

    Shapes:
        x (batch, time, in_size), or ``Masked``; h and c (batch, hidden_size); y (batch, hidden_size) for the last h,
        (batch, time, hidden_size) for all; input_weight W (in_size, 4 · hidden_size), hidden_weight U
        (hidden_size, 4 · hidden_size), bias b (4 · hidden_size,)

    Gradient:
        Backpropagation through time, from the last step to the first. hₜ reaches the loss through y and through step
        t + 1, so hₜ_bar is the sum of yₜ_bar and of what step t + 1 gives back; cₜ_bar likewise. In step t, with
        τ = tanh(cₜ), tanh' = 1 - tanh² and σ' = σ (1 - σ):

        1. hₜ = o τ: o_bar = hₜ_bar τ, and cₜ gets hₜ_bar o tanh'(cₜ) more:
           s = cₜ_bar + hₜ_bar o tanh'(cₜ)
        2. cₜ = f cₜ₋₁ + i g: i_bar = s g, f_bar = s cₜ₋₁, g_bar = s i, cₜ₋₁_bar = s f
        3. a_bar = [i_bar σ'(aᵢ), f_bar σ'(a_f), g_bar tanh'(a_g), o_bar σ'(aₒ)]
        4. a = xₜ W + b + hₜ₋₁ U: hₜ₋₁_bar = a_bar Uᵀ, xₜ_bar = a_bar Wᵀ

        W, U and b are the same in every step. Their cotangents are sums over steps and examples, each one product:

        input_weight_bar = Σₜ xₜᵀ a_barₜ, hidden_weight_bar = Σₜ hₜ₋₁ᵀ a_barₜ, bias_bar = Σₜ a_barₜ

    The differences 1 - σ and 1 - tanh² lose their digits where a gate is nearly 1, so σ' and tanh' are computed from
    their arguments, in the forward pass.

    A masked step does not change h and c, so h_bar and c_bar are passed on unchanged. The y and a_bar of this step are
    0.

    Args:
        hidden_size: the size of h and of c.
        forget_bias: added to the forget gate's initial bias, so that the cell remembers at the start of training.
            By default 1, or 0 for the initializer ``"pytorch"``.
        returns: ``"last"``, the last h, or ``"sequence"``, all of them.
        initial_state: ``"zeros"``; ``"learned"``, the parameters initial_hidden and initial_cell; or ``"given"``,
            where x is (sequence, (h, c)).
        initializer: of W; U is orthogonal. ``"pytorch"`` draws everything from U(±1/√hidden_size).
        name: used in parameter trees and in error messages.

    >>> layer = lstm(3)
    >>> params, state = layer.init(jax.random.key(0), (7, 2))
    >>> layer.apply(params, state, jnp.ones((5, 7, 2)), train=False)[0].shape
    (5, 3)

    References:
        Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers, Schmidhuber and Cummins 2000, "Learning to
        forget"; Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures" (forget bias).
    """
    return over_time(_recurrence(hidden_size, forget_bias, initializer), returns, initial_state, name)


@without_input_size("hidden_size")
def lstm_cell(
    hidden_size: int,
    *,
    forget_bias: float | jax.Array | None = None,
    initializer: Initializer = "glorot",
    name: str = "lstm_cell",
) -> Layer:
    """One step of long short-term memory: (input, (h, c)) to the next (h, c).

    Math:
        ``lstm``'s, for one t: y = (hₜ, cₜ) of x = (xₜ, (hₜ₋₁, cₜ₋₁))

    Shapes:
        xₜ (batch, in_size), h and c (batch, hidden_size); the parameters are ``lstm``'s

    Gradient:
        Steps 1 to 4 of ``lstm``, with the cotangents of hₜ and cₜ given.

    Args:
        hidden_size: the size of h and of c.
        forget_bias: as for ``lstm``.
        initializer: as for ``lstm``.
        name: used in parameter trees and in error messages.

    >>> layer = lstm_cell(3)
    >>> params, state = layer.init(jax.random.key(0), ((2,), ((3,), (3,))))
    >>> (h, c), _ = layer.apply(params, state, (jnp.ones((5, 2)), (jnp.zeros((5, 3)), jnp.ones((5, 3)))), train=False)
    >>> h.shape, c.shape
    ((5, 3), (5, 3))
    """
    return one_step(_recurrence(hidden_size, forget_bias, initializer), name)


def _recurrence(hidden_size, forget_bias, initializer) -> Recurrence:
    hidden_size = check_count("hidden_size", hidden_size)
    if forget_bias is None:
        forget_bias = 0.0 if isinstance(initializer, str) and initializer == "pytorch" else 1.0
    forget_bias = check_number("forget_bias", forget_bias)

    def init(key, in_size):
        params = starting_parameters(key, in_size, hidden_size, 4, initializer)
        return {**params, "bias": params["bias"].at[hidden_size : 2 * hidden_size].add(forget_bias)}

    shapes = parameter_shapes("in_size", hidden_size, 4)
    return Recurrence(hidden_size, 2, shapes, init, _forward, _backward, _params_bar)


def _forward(params, p, state):
    h, c = state
    a = p + h @ params["hidden_weight"]
    a_i, a_f, a_g, a_o = jnp.split(a, 4, axis=-1)
    i, f = jax.nn.sigmoid(a_i), jax.nn.sigmoid(a_f)
    g, o = jnp.tanh(a_g), jax.nn.sigmoid(a_o)
    c_next = f * c + i * g
    tau = jnp.tanh(c_next)
    # What steps 1 to 3 of the gradient multiply by. It is computed here, where the arguments of σ and tanh are known:
    # from σ and tanh alone, 1 - σ and 1 - tanh² would lose their digits.
    factors = (
        g * gate_derivative(a_i, i),
        c * gate_derivative(a_f, f),
        i * tanh_derivative(a_g),
        tau * gate_derivative(a_o, o),
        f,
        o * tanh_derivative(c_next),
    )
    return (o * tau, c_next), (h, factors)


def _backward(params, saved, state_bar):
    h_bar, c_bar = state_bar
    _h, (of_i, of_f, of_g, of_o, f, of_cell) = saved
    # Step 1: s is the whole cotangent of cₜ, also through hₜ. Only o is not part of cₜ, so its column has h_bar.
    s = c_bar + h_bar * of_cell
    a_bar = jnp.concatenate((s * of_i, s * of_f, s * of_g, h_bar * of_o), axis=-1)
    return (a_bar,), (a_bar @ params["hidden_weight"].T, s * f)


def _params_bar(x, saved, bars):
    h, _factors = saved
    (a_bar,) = bars
    return weights_and_bias_bar({"hidden_weight": h, "input_weight": x}, a_bar)
