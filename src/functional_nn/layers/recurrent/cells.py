"""Recurrent layers and their cells: simple (Elman), long short-term memory (LSTM) and gated recurrent unit (GRU).

The derivatives of gates are computed in the forward pass together with the gates. Their formulas use few operations,
because a train step of a recurrent layer spends much of its time on gates.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import with_second_derivative
from functional_nn.activations.activation_types import Activation, as_activation
from functional_nn.activations.smooth import sigmoid, tanh
from functional_nn.core.layer import Layer
from functional_nn.core.products import summed_product
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import check_count, check_flag, check_key, check_number, without_input_size
from functional_nn.layers.initializers import Initializer, weight_and_bias
from functional_nn.layers.recurrent.unrolling import (
    InitialState,
    ParamsBar,
    Recurrence,
    Returns,
    StepBackward,
    StepForward,
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

    >>> import jax.numpy as jnp, functional_nn as fnn, jax
    >>> layer = fnn.rnn(3, returns="sequence")
    >>> params, state = layer.init(jax.random.key(0), (7, 2))
    >>> layer.apply(params, state, jnp.ones((5, 7, 2)), train=False)[0].shape
    (5, 7, 3)

    References:
        Elman 1990, "Finding structure in time"; Werbos 1990, "Backpropagation through time".
    """
    return over_time(_rnn_recurrence(hidden_size, activation, initializer), returns, initial_state, name)


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

    >>> import jax.numpy as jnp, functional_nn as fnn, jax
    >>> layer = fnn.rnn_cell(3)
    >>> params, state = layer.init(jax.random.key(0), ((2,), (3,)))
    >>> layer.apply(params, state, (jnp.ones((5, 2)), jnp.zeros((5, 3))), train=False)[0].shape
    (5, 3)
    """
    return one_step(_rnn_recurrence(hidden_size, activation, initializer), name)


def _rnn_recurrence(
    hidden_size: int, activation: Activation | Callable[[jax.Array], jax.Array], initializer: Initializer
) -> Recurrence:
    function = as_activation(activation)

    def forward(params, p, h):
        a = p + h @ params["hidden_weight"]
        return function(a), (h, a)

    def backward(params, saved, h_bar):
        _h, a = saved
        a_bar = function.pullback(a, h_bar)
        return (a_bar,), a_bar @ params["hidden_weight"].T

    return _recurrence(hidden_size, 1, initializer, forward, backward)


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

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> layer = fnn.lstm(3)
    >>> params, state = layer.init(jax.random.key(0), (7, 2))
    >>> layer.apply(params, state, jnp.ones((5, 7, 2)), train=False)[0].shape
    (5, 3)

    References:
        Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers, Schmidhuber and Cummins 2000, "Learning to
        forget"; Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures" (forget bias).
    """
    return over_time(_lstm_recurrence(hidden_size, forget_bias, initializer), returns, initial_state, name)


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

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> layer = fnn.lstm_cell(3)
    >>> params, state = layer.init(jax.random.key(0), ((2,), ((3,), (3,))))
    >>> (h, c), _ = layer.apply(params, state, (jnp.ones((5, 2)), (jnp.zeros((5, 3)), jnp.ones((5, 3)))), train=False)
    >>> h.shape, c.shape
    ((5, 3), (5, 3))
    """
    return one_step(_lstm_recurrence(hidden_size, forget_bias, initializer), name)


def _lstm_recurrence(hidden_size: int, forget_bias: float | jax.Array | None, initializer: Initializer) -> Recurrence:
    if forget_bias is None:
        forget_bias = 0.0 if isinstance(initializer, str) and initializer == "pytorch" else 1.0
    forget_bias = check_number("forget_bias", forget_bias)

    recurrence = _recurrence(hidden_size, 4, initializer, _lstm_forward, _lstm_backward, parts=2)

    def init(key, in_size):
        params = recurrence.init(key, in_size)
        of_gate = slice(recurrence.hidden_size, 2 * recurrence.hidden_size)
        return {**params, "bias": params["bias"].at[of_gate].add(forget_bias)}

    return recurrence._replace(init=init)


def _lstm_forward(params, p, state):
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


def _lstm_backward(params, saved, state_bar):
    h_bar, c_bar = state_bar
    _h, (of_i, of_f, of_g, of_o, f, of_cell) = saved
    # Step 1: s is the whole cotangent of cₜ, also through hₜ. Only o is not part of cₜ, so its column has h_bar.
    s = c_bar + h_bar * of_cell
    a_bar = jnp.concatenate((s * of_i, s * of_f, s * of_g, h_bar * of_o), axis=-1)
    return (a_bar,), (a_bar @ params["hidden_weight"].T, s * f)


@without_input_size("hidden_size")
def gru(
    hidden_size: int,
    *,
    reset_after: bool = True,
    returns: Returns = "last",
    initial_state: InitialState = "zeros",
    initializer: Initializer = "glorot",
    name: str = "gru",
) -> Layer:
    """A gated recurrent unit over time: gates control how much of h is replaced by new values.

    Math:
        For every step t, with the three parts of p and of u in the order of PyTorch's, and h = hₜ₋₁:

        p = xₜ W + b, [pᵣ, p_z, pₙ] = p, u = h U, [uᵣ, u_z, uₙ] = u,
        r = σ(pᵣ + uᵣ), z = σ(p_z + u_z),
        n = tanh(pₙ + r (uₙ + d)) with ``reset_after``, as in PyTorch and cuDNN, d a bias of its own,
        n = tanh(pₙ + (r h) Uₙ) without, as the paper has it, Uₙ the last third of U's columns,
        hₜ = (1 - z) n + z h

    Shapes:
        x (batch, time, in_size), or ``Masked``; h (batch, hidden_size); y (batch, hidden_size) for the last h,
        (batch, time, hidden_size) for all; input_weight W (in_size, 3 · hidden_size), hidden_weight U
        (hidden_size, 3 · hidden_size), bias b (3 · hidden_size,), hidden_bias d (hidden_size,)

    Gradient:
        Backpropagation through time, from the last step to the first. hₜ reaches the loss through y and through step
        t + 1, so hₜ_bar is the sum of yₜ_bar and of what step t + 1 gives back. In step t, with tanh' = 1 - tanh² and
        σ' = σ (1 - σ):

        1. hₜ = (1 - z) n + z h: z_bar = hₜ_bar (h - n), n_bar = hₜ_bar (1 - z), and h gets hₜ_bar z
        2. with aₙ, a_z and aᵣ the arguments of tanh and σ: pₙ_bar = n_bar tanh'(aₙ), p_z_bar = z_bar σ'(a_z)
        3. with ``reset_after``: uₙ_bar = pₙ_bar r, r_bar = pₙ_bar (uₙ + d);
           without: uₙ_bar = pₙ_bar, (r h)_bar = pₙ_bar Uₙᵀ, r_bar = (r h)_bar h, and h gets (r h)_bar r
        4. pᵣ_bar = r_bar σ'(aᵣ), uᵣ_bar = pᵣ_bar, u_z_bar = p_z_bar
        5. u = h U: h gets u_bar Uᵀ (without ``reset_after`` uₙ's share is in 3); xₜ_bar = p_bar Wᵀ

        W, U, b and d are the same in every step. Their cotangents are sums over steps and examples, each one product:

        input_weight_bar = Σₜ xₜᵀ p_barₜ, bias_bar = Σₜ p_barₜ, hidden_weight_bar = Σₜ hₜ₋₁ᵀ u_barₜ, with (r hₜ₋₁)ᵀ
        for Uₙ where not ``reset_after``, hidden_bias_bar = Σₜ uₙ_barₜ

    The differences 1 - z, 1 - r and 1 - n² lose their digits near 1. So 1 - z is computed as σ(-a_z), also in the
    forward pass, and σ' and tanh' are computed from their arguments.

    A masked step does not change h, so h_bar is passed on unchanged. The y, p_bar and u_bar of this step are 0.

    Args:
        hidden_size: the size of h.
        reset_after: whether r is applied after the product with Uₙ or before.
        returns: ``"last"``, the last h, or ``"sequence"``, all of them.
        initial_state: ``"zeros"``; ``"learned"``, the parameter initial_hidden; or ``"given"``, where x is
            (sequence, h).
        initializer: of W; U is orthogonal. ``"pytorch"`` draws everything from U(±1/√hidden_size).
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> layer = fnn.gru(3)
    >>> params, state = layer.init(jax.random.key(0), (7, 2))
    >>> layer.apply(params, state, jnp.ones((5, 7, 2)), train=False)[0].shape
    (5, 3)

    References:
        Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", equations 5 to 8 (their z keeps
        what this one keeps); Chung et al. 2014, "Empirical evaluation of gated recurrent neural networks".
    """
    return over_time(_gru_recurrence(hidden_size, reset_after, initializer), returns, initial_state, name)


@without_input_size("hidden_size")
def gru_cell(
    hidden_size: int, *, reset_after: bool = True, initializer: Initializer = "glorot", name: str = "gru_cell"
) -> Layer:
    """One step of a gated recurrent unit: (input, h) to the next h.

    Math:
        ``gru``'s, for one t: y = hₜ of x = (xₜ, hₜ₋₁)

    Shapes:
        xₜ (batch, in_size), h (batch, hidden_size); the parameters are ``gru``'s

    Gradient:
        Steps 1 to 5 of ``gru``, with the cotangent of hₜ given.

    Args:
        hidden_size: the size of h.
        reset_after: as for ``gru``.
        initializer: as for ``gru``.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> layer = fnn.gru_cell(3)
    >>> params, state = layer.init(jax.random.key(0), ((2,), (3,)))
    >>> layer.apply(params, state, (jnp.ones((5, 2)), jnp.zeros((5, 3))), train=False)[0].shape
    (5, 3)
    """
    return one_step(_gru_recurrence(hidden_size, reset_after, initializer), name)


def _gru_recurrence(hidden_size: int, reset_after: bool, initializer: Initializer) -> Recurrence:
    if check_flag("reset_after", reset_after):
        formula = _gru_forward, _gru_backward, _gru_params_bar
    else:
        formula = _gru_forward_before, _gru_backward_before, _gru_params_bar_before
    return _recurrence(hidden_size, 3, initializer, *formula, hidden_bias=bool(reset_after))


# With reset_after: r is applied to the product with Uₙ.


def _gru_forward(params, p, h):
    p_r, p_z, p_n = _thirds(p)
    u_r, u_z, u_n = _thirds(h @ params["hidden_weight"])
    u_n = u_n + params["hidden_bias"][None]
    a_r = p_r + u_r
    r = jax.nn.sigmoid(a_r)
    h_next, of_z, of_n, z = _next_state(h, p_z + u_z, p_n + r * u_n)
    # Steps 3 and 4 of the gradient in one factor: pᵣ_bar = pₙ_bar (uₙ + d) σ'(aᵣ).
    of_r = u_n * gate_derivative(a_r, r)
    return h_next, (h, of_z, of_n, of_r, r, z)


def _gru_backward(params, saved, h_bar):
    _h, of_z, of_n, of_r, r, z = saved
    # Steps 1 and 2, then 3 and 4. p and u are added in the gates, so u_bar differs from p_bar in its last third only.
    p_z_bar, p_n_bar = h_bar * of_z, h_bar * of_n
    p_r_bar = p_n_bar * of_r
    u_n_bar = p_n_bar * r
    p_bar = jnp.concatenate([p_r_bar, p_z_bar, p_n_bar], axis=-1)
    u_bar = jnp.concatenate([p_r_bar, p_z_bar, u_n_bar], axis=-1)
    return (p_bar, u_n_bar), h_bar * z + u_bar @ params["hidden_weight"].T


def _gru_params_bar(x, saved, bars):
    h, *_ = saved
    p_bar, u_n_bar = bars
    gates_bar, _p_n_bar = _gates_and_candidate(p_bar)
    # u_bar has the columns of p_bar for the gates, and u_n_bar for the candidate. d is added to uₙ, so it is a bias.
    candidate = weights_and_bias_bar({"hidden_weight": h}, u_n_bar)
    hidden_weight_bar = jnp.concatenate([summed_product(h, gates_bar), candidate["hidden_weight"]], axis=-1)
    hidden = {"hidden_weight": hidden_weight_bar, "hidden_bias": candidate["bias"]}
    return {**weights_and_bias_bar({"input_weight": x}, p_bar), **hidden}


# Without reset_after: r is applied to h, before the product with Uₙ.


def _gru_forward_before(params, p, h):
    p_r, p_z, p_n = _thirds(p)
    gates_weight, candidate_weight = _gates_and_candidate(params["hidden_weight"])
    u_r, u_z = jnp.split(h @ gates_weight, 2, axis=-1)
    a_r = p_r + u_r
    r = jax.nn.sigmoid(a_r)
    h_next, of_z, of_n, z = _next_state(h, p_z + u_z, p_n + (r * h) @ candidate_weight)
    # Steps 3 and 4 of the gradient in one factor: pᵣ_bar = (r h)_bar h σ'(aᵣ).
    of_r = h * gate_derivative(a_r, r)
    return h_next, (h, of_z, of_n, of_r, r, z)


def _gru_backward_before(params, saved, h_bar):
    _h, of_z, of_n, of_r, r, z = saved
    gates_weight, candidate_weight = _gates_and_candidate(params["hidden_weight"])
    p_z_bar, p_n_bar = h_bar * of_z, h_bar * of_n
    reset_h_bar = p_n_bar @ candidate_weight.T
    p_r_bar = reset_h_bar * of_r
    gates_bar = jnp.concatenate([p_r_bar, p_z_bar], axis=-1)
    p_bar = jnp.concatenate([gates_bar, p_n_bar], axis=-1)
    # h gets three shares: from z h (step 1), from r h (step 3), and from the gates' part of u = h U (step 5).
    return (p_bar,), h_bar * z + reset_h_bar * r + gates_bar @ gates_weight.T


def _gru_params_bar_before(x, saved, bars):
    h, *_, r, _z = saved
    (p_bar,) = bars
    gates_bar, p_n_bar = _gates_and_candidate(p_bar)
    parts = [summed_product(h, gates_bar), summed_product(r * h, p_n_bar)]
    return {**weights_and_bias_bar({"input_weight": x}, p_bar), "hidden_weight": jnp.concatenate(parts, axis=-1)}


def _next_state(h, a_z, a_n):
    """hₜ = (1 - z) n + z h with z = σ(a_z) and n = tanh(aₙ), the factors of hₜ_bar in steps 1 and 2, and z."""
    z, rest, n = jax.nn.sigmoid(a_z), jax.nn.sigmoid(-a_z), jnp.tanh(a_n)
    of_z = (h - n) * gate_derivative(a_z, z)
    of_n = rest * tanh_derivative(a_n)
    return rest * n + z * h, of_z, of_n, z


def _thirds(x):
    return jnp.split(x, 3, axis=-1)


def _gates_and_candidate(x):
    """Splits off the last third: the parts of the gates r and z, and the part of the candidate n."""
    return jnp.split(x, [x.shape[-1] // 3 * 2], axis=-1)


def _params_bar(x, saved, bars):
    """The cotangents of the parameters where a = p + h U: one product of h and x with a_bar."""
    h, *_ = saved
    (a_bar,) = bars
    return weights_and_bias_bar({"hidden_weight": h, "input_weight": x}, a_bar)


def _recurrence(
    hidden_size: int,
    gates: int,
    initializer: Initializer,
    forward: StepForward,
    backward: StepBackward,
    params_bar: ParamsBar = _params_bar,
    *,
    parts: int = 1,
    hidden_bias: bool = False,
) -> Recurrence:
    """A recurrence with W (in_size, gates · H), U (H, gates · H), b (gates · H) and, if wanted, a hidden bias (H).

    W comes from the initializer, separately for each gate. Each gate's part of U is orthogonal, so that repeated
    products neither grow nor shrink h. Biases are zero. ``"pytorch"`` draws everything from U(±1/√H), as PyTorch's
    recurrent layers do.
    """
    hidden_size = check_count("hidden_size", hidden_size)
    width = gates * hidden_size
    shapes = {"input_weight": ("in_size", width), "hidden_weight": (hidden_size, width), "bias": (width,)}
    if hidden_bias:
        shapes["hidden_bias"] = (hidden_size,)

    def init(key, in_size):
        check_key(key)
        if isinstance(initializer, str) and initializer == "pytorch":
            bound = hidden_size**-0.5
            own = {**shapes, "input_weight": (in_size, width)}
            keys = dict(zip(own, jax.random.split(key, len(own)), strict=True))
            return {
                name: jax.random.uniform(keys[name], shape, minval=-bound, maxval=bound) for name, shape in own.items()
            }
        keys = jax.random.split(key, (2, gates))
        orthogonal = jax.nn.initializers.orthogonal()
        input_weights = [weight_and_bias(initializer, gate_key, (in_size, hidden_size))[0] for gate_key in keys[0]]
        hidden_weights = [orthogonal(gate_key, (hidden_size, hidden_size)) for gate_key in keys[1]]
        return {
            "input_weight": jnp.concatenate(input_weights, 1),
            "hidden_weight": jnp.concatenate(hidden_weights, 1),
            **{name: jnp.zeros(shape) for name, shape in shapes.items() if name.endswith("bias")},
        }

    return Recurrence(hidden_size, parts, shapes, init, forward, backward, params_bar)


@with_second_derivative(lambda a: -sigmoid.derivative(a) * jnp.tanh(a / 2))
def gate_derivative(a: jax.Array, gate: jax.Array) -> jax.Array:
    """σ'(a) = σ(a) (1 - σ(a)) for gate = σ(a), computed as (e^{-a} σ(a)) σ(a), since 1 - σ(a) = e^{-a} σ(a).

    1 - σ(a) itself would lose its digits for large a. XLA computes σ(a) as 1 / (1 + e^{-a}), so this needs no further
    exponential. If e^{-a} overflows, σ(a) is 0. The bound prevents 0 · ∞.
    """
    wide = wide_type(a.dtype)
    inverse_odds = jnp.minimum(jnp.exp(-a.astype(wide)), jnp.finfo(wide).max)
    wide_gate = gate.astype(wide)
    return (inverse_odds * wide_gate * wide_gate).astype(a.dtype)


@with_second_derivative(lambda a: -2 * jnp.tanh(a) * tanh.derivative(a))
def tanh_derivative(a: jax.Array) -> jax.Array:
    """tanh'(a) = e^{-2|a|} (1 + |tanh(a)|)². From tanh(a) alone, 1 - tanh²(a) would lose its digits.

    Let e = e^{-2|a|}. Then |tanh(a)| = (1 - e) / (1 + e), so 1 + |tanh(a)| = 2 / (1 + e), and tanh'(a) = 4e / (1 + e)².
    The tanh is that of the forward pass, which XLA computes once, so this needs no division.
    """
    wide_a = a.astype(wide_type(a.dtype))
    s = 1 + jnp.abs(jnp.tanh(wide_a))
    return (jnp.exp(-2 * jnp.abs(wide_a)) * s * s).astype(a.dtype)
