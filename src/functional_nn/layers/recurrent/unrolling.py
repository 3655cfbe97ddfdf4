"""Recurrent layers from the formula of one step: as a cell for one step, and over time by a scan."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from functional_nn.core.errors import check
from functional_nn.core.layer import Layer, Params, Residuals
from functional_nn.core.masked import Masked, check_mask, mask_of, values_of, with_mask_of
from functional_nn.core.products import summed_product
from functional_nn.core.scan import scan
from functional_nn.core.validation import check_choice, check_entry_shapes, check_input, check_shape

Returns: TypeAlias = Literal["last", "sequence"]
InitialState: TypeAlias = Literal["zeros", "learned", "given"]

Part = TypeVar("Part")

HiddenState: TypeAlias = jax.Array | tuple[jax.Array, ...]
"""h alone, or (h, c)."""

StepForward: TypeAlias = Callable[[Params, jax.Array, Any], tuple[HiddenState, Residuals]]
StepBackward: TypeAlias = Callable[[Params, Any, Any], tuple[tuple[jax.Array, ...], HiddenState]]
ParamsBar: TypeAlias = Callable[[jax.Array, Any, tuple[jax.Array, ...]], Params]

STATE_NAMES = "initial_hidden", "initial_cell"
"""The names of the parameters that hold a learned initial state: that of h, and that of c."""


class Recurrence(NamedTuple):
    """The formula of one step and its backward pass. A cell uses it once, a layer over time uses it at every step.

    A step uses its input only in p = x W + b, so a layer over time computes p for all steps in one product.

    Args:
        hidden_size: H, the size of h.
        parts: the number of arrays in a state: 1 for h alone, 2 for (h, c).
        shapes: the shapes of the parameters by name; ``"in_size"`` stands for the size of the input.
        init: ``init(key, in_size) -> params``, with ``input_weight`` W, ``hidden_weight`` U and ``bias`` b.
        forward: ``forward(params, p, state) -> (next_state, saved)``, where saved is what backward needs.
        backward: ``backward(params, saved, next_state_bar) -> (bars, state_bar)``. bars is a tuple of p_bar and any
            further cotangents that params_bar needs.
        params_bar: ``params_bar(x, saved, bars) -> params_bar``, the cotangents of all parameters, summed over all
            leading axes.
    """

    hidden_size: int
    parts: int
    shapes: dict[str, tuple[int | str, ...]]
    init: Callable[[jax.Array, int], Params]
    forward: StepForward
    backward: StepBackward
    params_bar: ParamsBar

    def state(self, parts: list[Part]) -> Part | tuple[Part, ...]:
        """Makes a state of its parts: h alone, or (h, c)."""
        return parts[0] if self.parts == 1 else tuple(parts)


def one_step(recurrence: Recurrence, name: str) -> Layer:
    """Makes a layer of one step of a recurrence: (input, state) -> next state."""

    def init(key, in_shape):
        input_shape, state_shape = _pair(in_shape, "in_shape", "((in_size,), shape of the state)")
        _check_state_shape(recurrence, state_shape)
        return recurrence.init(key, check_shape(input_shape, "(in_size,)")[0]), {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, recurrence.shapes)
        x, hidden = _pair(x, "x", "(input, state)")
        check_input(x, "(batch, in_size)", params["input_weight"].shape[0])
        p = _project(params, x)
        _check_state(recurrence, hidden, p.shape[0], p.dtype)
        hidden, saved = recurrence.forward(params, p, hidden)
        return hidden, state, (params, x, saved)

    def backward(residuals, y_bar):
        params, x, saved = residuals
        bars, state_bar = recurrence.backward(params, saved, y_bar)
        x_bar = bars[0] @ params["input_weight"].T
        return recurrence.params_bar(x, saved, bars), (x_bar, state_bar)

    return Layer(name, init, forward, backward)


def over_time(recurrence: Recurrence, returns: Returns, initial_state: InitialState, name: str) -> Layer:
    """Makes a layer over time of a recurrence: sequence -> last h, or all h.

    The forward pass computes p for all steps in one product, then runs a scan over the steps. The backward pass runs a
    scan from the last step to the first, which gives the p_bar of every step. After the scan it computes the cotangent
    of each weight in one product over all steps and examples. A sum inside the scan would be slower, since it would
    read and write the weight's cotangent at every step.

    A masked step does not change the state. So its state cotangent is passed on unchanged, its p_bar is 0, and its
    output is 0.

    Both scans are wrapped in ``jax.jit``, so that calls outside of ``jit`` do not compile them again each time.
    """
    check_choice("returns", returns, ("last", "sequence"))
    check_choice("initial_state", initial_state, ("zeros", "learned", "given"))
    given = initial_state == "given"
    learned = STATE_NAMES[: recurrence.parts] if initial_state == "learned" else ()
    shapes = {**recurrence.shapes, **dict.fromkeys(learned, (recurrence.hidden_size,))}

    def init(key, in_shape):
        if given:
            in_shape, state_shape = _pair(in_shape, "in_shape", "((time, in_size), shape of the state)")
            _check_state_shape(recurrence, state_shape)
        _, in_size = check_shape(in_shape, "(time, in_size)", "Put reshape((time, in_size)) before this layer.")
        params = recurrence.init(key, in_size)
        return {**params, **{part: jnp.zeros(recurrence.hidden_size) for part in learned}}, {}

    @jax.jit
    def scan_forward(params, start, p, mask):
        def step(before, inputs):
            p, mask = inputs
            after, saved = recurrence.forward(params, p, before)
            # A masked step keeps the state before it.
            after = jax.tree.map(lambda new, old: _where(mask, new, old), after, before)
            return after, (_hidden(after), saved)

        return scan(step, start, (p, mask))

    @jax.jit
    def scan_backward(params, last_bar, saved, mask, outputs_bar):
        def step(after_bar, inputs):
            saved, mask, output_bar = inputs
            # hₜ is used by the output and by step t + 1, so its cotangent is the sum of both.
            if output_bar is not None:
                h_bar, *others = jax.tree.leaves(after_bar)
                after_bar = recurrence.state([h_bar + output_bar, *others])
            bars, before_bar = recurrence.backward(params, saved, after_bar)
            # A masked step passes the cotangent of the state on unchanged, and nothing else: its output_bar is 0.
            before_bar = jax.tree.map(lambda new, old: _where(mask, new, old), before_bar, after_bar)
            return before_bar, tuple(_zero_padding(mask, bar) for bar in bars)

        return scan(step, last_bar, (saved, mask, outputs_bar), reverse=True)

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, shapes)
        sequence, start = _pair(x, "x", "(sequence, initial state)") if given else (x, None)
        check_mask(sequence)
        values, mask = values_of(sequence), mask_of(sequence)
        remedy = "Use reshape((time, in_size)) to combine further axes."
        check_input(values, "(batch, time, in_size)", params["input_weight"].shape[0], remedy=remedy)

        # The scan runs over the first axis, so time comes first. Padding may hold NaN, and 0 · NaN is not 0, so it is
        # replaced by 0 before the product.
        values = _time_first(values)
        if mask is not None:
            mask = _time_first(mask)[:, :, None]
        values = _zero_padding(mask, values)
        p = _project(params, values)

        # The scan needs one type for all states, which is that of p. A learned initial state, or one of zeros, is the
        # same for every example.
        if given:
            _check_state(recurrence, start, p.shape[1], p.dtype)
        else:
            parts = [jnp.zeros(recurrence.hidden_size, p.dtype)] * recurrence.parts
            if learned:
                parts = [params[part].astype(p.dtype) for part in learned]
            start = recurrence.state([jnp.broadcast_to(part[None], (p.shape[1], *part.shape)) for part in parts])

        last, (hidden, saved) = scan_forward(params, start, p, mask)
        y = _hidden(last)
        if returns == "sequence":
            y = with_mask_of(sequence, _time_first(_zero_padding(mask, hidden)))
        return y, state, (params, values, mask, saved)

    def backward(residuals, y_bar):
        params, values, mask, saved = residuals
        y_bar = values_of(y_bar)
        zeros = [jnp.zeros((y_bar.shape[0], recurrence.hidden_size), y_bar.dtype)] * recurrence.parts
        # The cotangent of the last state, and those of the outputs of all steps.
        if returns == "last":
            last_bar = recurrence.state([y_bar, *zeros[1:]])
            outputs_bar = None  # a pytree without arrays, which every step of the scan gets as None
        else:
            last_bar = recurrence.state(zeros)
            outputs_bar = _zero_padding(mask, _time_first(y_bar))

        start_bar, bars = scan_backward(params, last_bar, saved, mask, outputs_bar)
        params_bar = recurrence.params_bar(values, saved, bars)
        if learned:
            # All examples start from the same learned state, so its cotangent is the sum over them.
            start_bars = jax.tree.leaves(start_bar)
            start = {part: summed(bar) for part, bar in zip(learned, start_bars, strict=True)}
            params_bar = {**params_bar, **start}

        # x is used in p = x W + b only, so one product gives x_bar for all steps.
        x_bar = _time_first(bars[0] @ params["input_weight"].T)
        if mask is not None:
            x_bar = Masked(x_bar, None)
        return params_bar, (x_bar, start_bar) if given else x_bar

    return Layer(name, init, forward, backward, takes_mask=True, faster_by_formula=True)


def weights_and_bias_bar(rows: dict[str, jax.Array], columns: jax.Array) -> Params:
    """Computes Σ rowsᵀ columns for each weight, by name, and Σ columns for the bias.

    The bias is the weight of an input that is always 1. So one matrix product computes all of them, which is faster
    than several.
    """
    ones = jnp.ones((*columns.shape[:-1], 1), columns.dtype)
    product = summed_product(jnp.concatenate([*rows.values(), ones], axis=-1), columns)
    ends = list(itertools.accumulate(part.shape[-1] for part in rows.values()))
    *weights, bias = jnp.split(product, ends)
    return {**dict(zip(rows, weights, strict=True)), "bias": bias[0]}


def summed(rows: jax.Array) -> jax.Array:
    """Computes Σ rows over all axes except the last."""
    return jnp.sum(rows, axis=tuple(range(rows.ndim - 1)))


def _project(params, x):
    """p = x W + b."""
    return x @ params["input_weight"] + jnp.expand_dims(params["bias"], range(x.ndim - 1))


def _hidden(state):
    """The h of a state."""
    return jax.tree.leaves(state)[0]


def _time_first(x):
    """Swaps the first two axes: (batch, time, …) to (time, batch, …), or back."""
    return jnp.swapaxes(x, 0, 1)


def _where(mask, new, old):
    return new if mask is None else jnp.where(mask, new, old)


def _zero_padding(mask, x):
    return _where(mask, x, jnp.zeros_like(x))


def _pair(value, argument, expected):
    is_pair = isinstance(value, tuple | list) and len(value) == 2 and not isinstance(value, Masked)
    check(argument, value, f"a pair, {expected}", is_pair)
    return value


def _check_state_shape(recurrence, shape):
    expected = recurrence.state([(recurrence.hidden_size,)] * recurrence.parts)
    check("in_shape", shape, f"{expected} for the state {_state_symbols(recurrence)}", shape == expected)


def _check_state(recurrence, state, examples, dtype):
    expected = recurrence.state([f"{dtype}{[examples, recurrence.hidden_size]}"] * recurrence.parts)
    given = jax.tree.map(lambda part: f"{jnp.result_type(part)}{list(jnp.shape(part))}", state)
    check("x", state, f"the state {_state_symbols(recurrence)} as {expected}", given == expected)


def _state_symbols(recurrence):
    return "h" if recurrence.parts == 1 else "(h, c)"
