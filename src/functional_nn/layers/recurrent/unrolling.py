"""What recurrent layers share: one step as a layer of its own, and the same step over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params
from functional_nn.core.layer_checks import check_entries, check_floating, check_key
from functional_nn.core.masked import Masked, check_mask, mask_of, values_of, with_mask_of
from functional_nn.core.shapes import is_shape
from functional_nn.core.validation import check_choice
from functional_nn.layers.initializers import Initializer, weight_and_bias

Returns: TypeAlias = Literal["last", "sequence"]
InitialState: TypeAlias = Literal["zeros", "learned", "given"]

STATE_NAMES = "initial_hidden", "initial_cell"
"""What the parts of a learned initial state are called among the parameters, h first."""


class Recurrence(NamedTuple):
    """The formula of one step and its backward pass; a cell runs it once, a layer over time at every step.

    The input enters a step through p = x W + b alone, so a layer over time computes p for all steps in one product.

    Args:
        hidden_size: H, the size of h.
        parts: how many arrays a state has: 1 for h alone, 2 for (h, c).
        init: ``init(key, in_size) -> params``, with ``input_weight`` W, ``hidden_weight`` U and ``bias`` b.
        forward: ``forward(params, p, state) -> (next_state, saved)``.
        backward: ``backward(params, saved, next_state_bar) -> (bars, state_bar)``; bars are p_bar and what else the
            parameters that act on the state need.
        hidden_bar: ``hidden_bar(saved, *bars) -> params_bar`` of the parameters that act on the state, summed over
            all leading axes.
    """

    hidden_size: int
    parts: int
    init: Callable[[jax.Array, int], Params]
    forward: Callable[[Params, jax.Array, Any], tuple[Any, Any]]
    backward: Callable[[Params, Any, Any], tuple[tuple[jax.Array, ...], Any]]
    hidden_bar: Callable[..., Params]

    def state(self, parts: list[Any]) -> Any:
        """A state as users see it: h alone, or (h, c)."""
        return parts[0] if self.parts == 1 else tuple(parts)


def one_step(recurrence: Recurrence, name: str) -> Layer:
    """A recurrence as a layer of one step, (input, state) -> next state."""

    def init(key, in_shape):
        input_shape, state_shape = _pair(in_shape, "in_shape", "((in_size,), shape of the state)")
        _check_state_shape(recurrence, state_shape)
        return recurrence.init(key, _in_size(input_shape, "(in_size,)", 1)), {}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, ("input_weight", "hidden_weight", "bias"))
        x, hidden = _pair(x, "x", "(input, state)")
        _check_input(x, params["input_weight"], "(batch, in_size)", 2)
        _check_state(recurrence, hidden, x)
        hidden, saved = recurrence.forward(params, _project(params, x), hidden)
        return hidden, state, (params, x, saved)

    def backward(residuals, y_bar):
        params, x, saved = residuals
        bars, state_bar = recurrence.backward(params, saved, y_bar)
        params_bar, x_bar = _project_backward(params, x, bars[0])
        return {**params_bar, **recurrence.hidden_bar(saved, *bars)}, (x_bar, state_bar)

    return Layer(name, init, forward, backward)


def over_time(recurrence: Recurrence, returns: Returns, initial_state: InitialState, name: str) -> Layer:
    """A recurrence as a layer over time, sequence -> last h or all h.

    Forward: p for all steps in one product, then a scan over the steps. Backward: a scan from the last step to the
    first, which gives p_bar of every step; then each weight's cotangent in one product over all steps and examples,
    where a sum inside the scan would read and write the weight's cotangent at every step.

    At a masked step the state stays as it is, so its cotangent passes by unchanged, p_bar is 0, and so is the output.

    The scans are compiled once for a layer and shapes, so that it also runs outside ``jit`` without compiling anew.
    """
    check_choice("returns", returns, ("last", "sequence"))
    check_choice("initial_state", initial_state, ("zeros", "learned", "given"))
    given, learned = initial_state == "given", STATE_NAMES[: recurrence.parts] if initial_state == "learned" else ()

    def init(key, in_shape):
        if given:
            in_shape, state_shape = _pair(in_shape, "in_shape", "((time, in_size), shape of the state)")
            _check_state_shape(recurrence, state_shape)
        params = recurrence.init(key, _in_size(in_shape, "(time, in_size)", 2))
        return {**params, **{part: jnp.zeros(recurrence.hidden_size) for part in learned}}, {}

    @jax.jit
    def scan_forward(params, start, p, mask):
        def step(before, inputs):
            p, mask = inputs
            after, saved = recurrence.forward(params, p, before)
            after = jax.tree.map(lambda new, old: _where(mask, new, old), after, before)
            return after, (_hidden(after), saved)

        return jax.lax.scan(step, start, (p, mask))

    @jax.jit
    def scan_backward(params, last_bar, saved, mask, outputs_bar):
        def step(after_bar, inputs):
            saved, mask, output_bar = inputs
            if output_bar is not None:
                h_bar, *others = jax.tree.leaves(after_bar)
                after_bar = recurrence.state([h_bar + output_bar, *others])
            bars, before_bar = recurrence.backward(params, saved, after_bar)
            before_bar = jax.tree.map(lambda new, old: _where(mask, new, old), before_bar, after_bar)
            return before_bar, tuple(_zero_padding(mask, bar) for bar in bars)

        return jax.lax.scan(step, last_bar, (saved, mask, outputs_bar), reverse=True)

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, ("input_weight", "hidden_weight", "bias", *learned))
        sequence, start = _pair(x, "x", "(sequence, initial state)") if given else (x, None)
        check_mask(sequence)
        values, mask = values_of(sequence), mask_of(sequence)
        _check_input(values, params["input_weight"], "(batch, time, in_size)", 3)
        if given:
            _check_state(recurrence, start, values)
        values, mask = _time_first(values), None if mask is None else _time_first(mask)[:, :, None]
        values = _zero_padding(mask, values)
        p = _project(params, values)
        if not given:
            zeros = [jnp.zeros(recurrence.hidden_size, p.dtype)] * recurrence.parts
            parts = [params[part] for part in learned] or zeros
            start = recurrence.state([jnp.broadcast_to(part[None], (p.shape[1], *part.shape)) for part in parts])

        last, (hidden, saved) = scan_forward(params, start, p, mask)
        y = _hidden(last)
        if returns == "sequence":
            y = with_mask_of(sequence, _time_first(_zero_padding(mask, hidden)))
        return y, state, (params, values, mask, saved)

    def backward(residuals, y_bar):
        params, values, mask, saved = residuals
        y_bar = values_of(y_bar)
        zeros = [jnp.zeros((len(y_bar), recurrence.hidden_size), y_bar.dtype)] * recurrence.parts
        if returns == "last":
            last_bar, outputs_bar = recurrence.state([y_bar, *zeros[1:]]), None
        else:
            last_bar, outputs_bar = recurrence.state(zeros), _zero_padding(mask, _time_first(y_bar))

        start_bar, bars = scan_backward(params, last_bar, saved, mask, outputs_bar)
        params_bar, x_bar = _project_backward(params, values, bars[0])
        params_bar |= recurrence.hidden_bar(saved, *bars)
        params_bar |= {part: summed(bar) for part, bar in zip(learned, jax.tree.leaves(start_bar), strict=False)}
        x_bar = _time_first(x_bar)
        x_bar = x_bar if mask is None else Masked(x_bar, None)
        return params_bar, (x_bar, start_bar) if given else x_bar

    return Layer(name, init, forward, backward, takes_mask=True)


def starting_parameters(
    key: jax.Array, in_size: int, hidden_size: int, gates: int, initializer: Initializer, *, hidden_bias: bool = False
) -> dict[str, jax.Array]:
    """W (in_size, gates · H), U (H, gates · H), b (gates · H) and maybe a hidden bias (H), drawn gate by gate.

    W comes from the initializer, U is orthogonal, so that repeated products neither grow nor shrink h, and biases are
    zero. ``"pytorch"`` draws all from U(±1/√H), as PyTorch's recurrent layers do.
    """
    width = gates * hidden_size
    shapes = {"input_weight": (in_size, width), "hidden_weight": (hidden_size, width), "bias": (width,)}
    if hidden_bias:
        shapes["hidden_bias"] = (hidden_size,)
    check_key(key)
    if isinstance(initializer, str) and initializer == "pytorch":
        bound = hidden_size**-0.5
        keys = jax.random.split(key, len(shapes))
        draws = zip(keys, shapes.items(), strict=True)
        return {name: jax.random.uniform(k, shape, minval=-bound, maxval=bound) for k, (name, shape) in draws}
    keys = jax.random.split(key, (2, gates))
    orthogonal = jax.nn.initializers.orthogonal()
    input_weights = [weight_and_bias(initializer, k, (in_size, hidden_size))[0] for k in keys[0]]
    hidden_weights = [orthogonal(k, (hidden_size, hidden_size)) for k in keys[1]]
    biases = {name: jnp.zeros(shape) for name, shape in shapes.items() if name.endswith("bias")}
    weights = {"input_weight": jnp.concatenate(input_weights, 1), "hidden_weight": jnp.concatenate(hidden_weights, 1)}
    return weights | biases


def summed_product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Σ rowsᵀ columns over all axes but the last, as one matrix product."""
    axes = tuple(range(rows.ndim - 1))
    return jnp.tensordot(rows, columns, axes=(axes, axes))


def summed(rows: jax.Array) -> jax.Array:
    """Σ rows over all axes but the last."""
    return jnp.sum(rows, axis=tuple(range(rows.ndim - 1)))


def _project(params, x):
    return x @ params["input_weight"] + jnp.expand_dims(params["bias"], range(x.ndim - 1))


def _project_backward(params, x, p_bar):
    params_bar = {"input_weight": summed_product(x, p_bar), "bias": summed(p_bar)}
    return params_bar, p_bar @ params["input_weight"].T


def _hidden(state):
    return jax.tree.leaves(state)[0]


def _time_first(x):
    """(batch, time, …) to (time, batch, …), which a scan runs over, and back."""
    return jnp.swapaxes(x, 0, 1)


def _where(mask, new, old):
    return new if mask is None else jnp.where(mask, new, old)


def _zero_padding(mask, x):
    return _where(mask, x, jnp.zeros_like(x))


def _pair(value, argument, expected):
    if isinstance(value, Masked) or not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError(argument, f"a pair, {expected}", _words(value))
    return value


def _words(value):
    if isinstance(value, jax.Array):
        return f"an array of shape {value.shape}"
    return type(value).__name__ if isinstance(value, Masked) else repr(value)


def _in_size(in_shape, expected, rank):
    if not is_shape(in_shape) or len(in_shape) != rank:
        remedy = "Put reshape((time, in_size)) before it." if rank == 2 else ""
        raise InputError("in_shape", expected, repr(in_shape), remedy)
    return in_shape[-1]


def _check_input(x, input_weight, expected, rank):
    check_floating(x)
    if x.ndim != rank:
        remedy = "Bring other axes into these by reshape((time, in_size))." if rank == 3 else ""
        raise InputError("x", expected, f"shape {x.shape}", remedy)
    if x.shape[-1] != input_weight.shape[0]:
        expected = f"{input_weight.shape[0]} features on the last axis, as the input_weight {input_weight.shape} has"
        raise InputError("x", expected, f"{x.shape[-1]} (shape {x.shape})", "Initialize with this in_shape.")


def _check_state_shape(recurrence, shape):
    expected = recurrence.state([(recurrence.hidden_size,)] * recurrence.parts)
    if shape != expected:
        raise InputError("in_shape", f"{expected} for the state {_symbols(recurrence)}", repr(shape))


def _check_state(recurrence, state, x):
    expected = recurrence.state([f"{x.dtype}{[x.shape[0], recurrence.hidden_size]}"] * recurrence.parts)
    given = jax.tree.map(lambda part: f"{jnp.result_type(part)}{list(jnp.shape(part))}", state)
    if given != expected:
        raise InputError("x", f"the state {_symbols(recurrence)} as {expected}", f"{given}")


def _symbols(recurrence):
    return "h" if recurrence.parts == 1 else "(h, c)"
