"""The gated recurrent unit (GRU): the layer and its cell."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import without_input_size
from functional_nn.core.summed_product import summed_product
from functional_nn.core.validation import check_count, check_flag
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

    >>> layer = gru(3)
    >>> params, state = layer.init(jax.random.key(0), (7, 2))
    >>> layer.apply(params, state, jnp.ones((5, 7, 2)), train=False)[0].shape
    (5, 3)

    References:
        Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", equations 5 to 8 (their z keeps
        what this one keeps); Chung et al. 2014, "Empirical evaluation of gated recurrent neural networks".
    """
    return over_time(_recurrence(hidden_size, reset_after, initializer), returns, initial_state, name)


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

    >>> layer = gru_cell(3)
    >>> params, state = layer.init(jax.random.key(0), ((2,), (3,)))
    >>> layer.apply(params, state, (jnp.ones((5, 2)), jnp.zeros((5, 3))), train=False)[0].shape
    (5, 3)
    """
    return one_step(_recurrence(hidden_size, reset_after, initializer), name)


def _recurrence(hidden_size, reset_after, initializer) -> Recurrence:
    hidden_size = check_count("hidden_size", hidden_size)
    reset_after = check_flag("reset_after", reset_after)

    def init(key, in_size):
        return starting_parameters(key, in_size, hidden_size, 3, initializer, hidden_bias=reset_after)

    shapes = parameter_shapes("in_size", hidden_size, 3, hidden_bias=reset_after)
    if reset_after:
        return Recurrence(hidden_size, 1, shapes, init, _forward, _backward, _params_bar)
    return Recurrence(hidden_size, 1, shapes, init, _forward_before, _backward_before, _params_bar_before)


# With reset_after: r is applied to the product with Uₙ.


def _forward(params, p, h):
    p_r, p_z, p_n = _thirds(p)
    u_r, u_z, u_n = _thirds(h @ params["hidden_weight"])
    u_n = u_n + params["hidden_bias"][None]
    a_r = p_r + u_r
    r = jax.nn.sigmoid(a_r)
    h_next, of_z, of_n, z = _next_state(h, p_z + u_z, p_n + r * u_n)
    # Steps 3 and 4 of the gradient in one factor: pᵣ_bar = pₙ_bar (uₙ + d) σ'(aᵣ).
    of_r = u_n * gate_derivative(a_r, r)
    return h_next, (h, of_z, of_n, of_r, r, z)


def _backward(params, saved, h_bar):
    _h, of_z, of_n, of_r, r, z = saved
    # Steps 1 and 2, then 3 and 4. p and u are added in the gates, so u_bar differs from p_bar in its last third only.
    p_z_bar, p_n_bar = h_bar * of_z, h_bar * of_n
    p_r_bar = p_n_bar * of_r
    u_n_bar = p_n_bar * r
    p_bar = jnp.concatenate([p_r_bar, p_z_bar, p_n_bar], axis=-1)
    u_bar = jnp.concatenate([p_r_bar, p_z_bar, u_n_bar], axis=-1)
    return (p_bar, u_n_bar), h_bar * z + u_bar @ params["hidden_weight"].T


def _params_bar(x, saved, bars):
    h, *_ = saved
    p_bar, u_n_bar = bars
    gates_bar, _p_n_bar = _gates_and_candidate(p_bar)
    # u_bar has the columns of p_bar for the gates, and u_n_bar for the candidate. d is added to uₙ, so it is a bias.
    candidate = weights_and_bias_bar({"hidden_weight": h}, u_n_bar)
    hidden_weight_bar = jnp.concatenate([summed_product(h, gates_bar), candidate["hidden_weight"]], axis=-1)
    hidden = {"hidden_weight": hidden_weight_bar, "hidden_bias": candidate["bias"]}
    return {**weights_and_bias_bar({"input_weight": x}, p_bar), **hidden}


# Without reset_after: r is applied to h, before the product with Uₙ.


def _forward_before(params, p, h):
    p_r, p_z, p_n = _thirds(p)
    gates_weight, candidate_weight = _gates_and_candidate(params["hidden_weight"])
    u_r, u_z = jnp.split(h @ gates_weight, 2, axis=-1)
    a_r = p_r + u_r
    r = jax.nn.sigmoid(a_r)
    h_next, of_z, of_n, z = _next_state(h, p_z + u_z, p_n + (r * h) @ candidate_weight)
    # Steps 3 and 4 of the gradient in one factor: pᵣ_bar = (r h)_bar h σ'(aᵣ).
    of_r = h * gate_derivative(a_r, r)
    return h_next, (h, of_z, of_n, of_r, r, z)


def _backward_before(params, saved, h_bar):
    _h, of_z, of_n, of_r, r, z = saved
    gates_weight, candidate_weight = _gates_and_candidate(params["hidden_weight"])
    p_z_bar, p_n_bar = h_bar * of_z, h_bar * of_n
    reset_h_bar = p_n_bar @ candidate_weight.T
    p_r_bar = reset_h_bar * of_r
    gates_bar = jnp.concatenate([p_r_bar, p_z_bar], axis=-1)
    p_bar = jnp.concatenate([gates_bar, p_n_bar], axis=-1)
    # h gets three shares: from z h (step 1), from r h (step 3), and from the gates' part of u = h U (step 5).
    return (p_bar,), h_bar * z + reset_h_bar * r + gates_bar @ gates_weight.T


def _params_bar_before(x, saved, bars):
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
